"""Every verdict of every scope, with its reason: a change of one of them fails here."""

from __future__ import annotations

import pytest

from conf import DatabaseSettings
from db.scope import SCOPES
from server.compare.scenarios import SCENARIOS, run_scenario
from server.compare.verdicts import Kind, Verdict
from tests.fixtures.logs import ExpectLog

HOLDS = "holds: as promised"
SECOND = "lost: worked in a second session, which is never committed"
SECOND_PINNED = f"{SECOND} + leaked"
ANOTHERS = "mixed: worked in another request's session"
NOT_FOUND = "refused: NoSession"
SETTLED = "refused: SessionSettled"
OUTSIDE = "refused: OutsideRun"

PINNED: dict[str, tuple[str, str, str, str]] = {
    # explicit, contextvar, registry, threadlocal
    "plain_sync": (HOLDS, HOLDS, HOLDS, HOLDS),
    "plain_async": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "async_prepare": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "coroutine_prepare": (HOLDS, NOT_FOUND, SECOND, HOLDS),
    "coroutine_prepare_run": (HOLDS, HOLDS, SECOND, SECOND_PINNED),
    "overlapping": (HOLDS, HOLDS, HOLDS, ANOTHERS),
    "through_run": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "raising_beside_committing": (HOLDS, HOLDS, HOLDS, "mixed: worked in another request's session + lost"),
    "cancelled": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "client_leaves": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "connection_close": (HOLDS, NOT_FOUND, SECOND, ANOTHERS),
    "keep_alive": (HOLDS, HOLDS, HOLDS, HOLDS),
    "answering_child": (HOLDS, HOLDS, HOLDS, HOLDS),
    "asyncio_executor": (OUTSIDE, NOT_FOUND, SECOND_PINNED, SECOND_PINNED),
    "ioloop_executor": (OUTSIDE, NOT_FOUND, SECOND_PINNED, SECOND_PINNED),
    "to_thread": (OUTSIDE, OUTSIDE, OUTSIDE, SECOND_PINNED),
    "gather": (
        "refused: ConcurrentUse",
        "refused: ConcurrentUse",
        "refused: ConcurrentUse",
        f"{SECOND_PINNED} + refused",
    ),
    "outliving_task": (SETTLED, SETTLED, SECOND_PINNED, SECOND_PINNED),
    "callback_after_finish": (SETTLED, NOT_FOUND, SECOND_PINNED, SECOND_PINNED),
    "timer_beside_another": (SETTLED, SETTLED, SECOND, ANOTHERS),
    "query_after_finish": (SETTLED, NOT_FOUND, SECOND_PINNED, SECOND_PINNED),
    "lazy_worker": (HOLDS, ANOTHERS, ANOTHERS, ANOTHERS),
    "background_job": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "audit_row": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "two_applications": (HOLDS, HOLDS, SECOND, SECOND),
    "without_a_server": (HOLDS, HOLDS, HOLDS, HOLDS),
    "streamed_upload": (HOLDS, NOT_FOUND, SECOND, HOLDS),
    "streamed_upload_run": (HOLDS, HOLDS, SECOND_PINNED, SECOND_PINNED),
    "aborted_upload": (HOLDS, NOT_FOUND, SECOND, HOLDS),
    "handshake_session": (SETTLED, NOT_FOUND, SECOND, SECOND),
    "socket_opens": (HOLDS, HOLDS, HOLDS, SECOND_PINNED),
    "two_sockets": (HOLDS, HOLDS, HOLDS, ANOTHERS),
    "forgotten": ("refused: TypeError", NOT_FOUND, SECOND_PINNED, SECOND_PINNED),
    "kept_object": (SETTLED, HOLDS, HOLDS, HOLDS),
}


def in_short(verdict: Verdict) -> str:
    """The verdict, its reason, and what was found beside it."""
    text = f"{verdict.kind.value}: {verdict.reason}"
    return " + ".join([text, *(kind.value for kind in verdict.also)])


@pytest.mark.gen_test
@pytest.mark.parametrize("name", SCENARIOS)
async def test_each_scope_has_its_verdict(name: str, scratch: DatabaseSettings, expect_log: ExpectLog):
    """On SQLite and on PostgreSQL the same; explicit holds or refuses."""
    with expect_log("", "", required=False):  # what fails on purpose is logged
        verdicts = [await run_scenario(SCENARIOS[name], scope, scratch) for scope in SCOPES]

    assert tuple(map(in_short, verdicts)) == PINNED[name]
    assert verdicts[0].kind in (Kind.HOLDS, Kind.REFUSED)


def test_every_scenario_is_pinned_and_has_its_promise():
    """No scenario is left out of the pinned ones."""
    assert [*PINNED] == [*SCENARIOS]
    assert all(scenario.promise.endswith(".") for scenario in SCENARIOS.values())


def test_a_promise_is_shown_without_the_markup_of_docstrings():
    """In the list and in the report it is plain text."""
    assert not [name for name, scenario in SCENARIOS.items() if "``" in scenario.promise]
