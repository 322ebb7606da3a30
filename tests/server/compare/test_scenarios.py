"""Every verdict of every scope, with its reason: a change of one of them fails here."""

from __future__ import annotations

import pytest

from conf import DatabaseSettings
from server.compare.columns import COLUMNS
from server.compare.scenarios import GROUPS, SCENARIOS, run_scenario
from server.compare.verdicts import Kind, Verdict
from tests.fixtures.backends import Backend
from tests.fixtures.logs import ExpectLog
from tests.server.compare import pinned
from tests.server.compare.pinned import ON_THE_LOOP, PINNED

DRIVERS = [
    "sqlite",
    *(
        pytest.param(driver, marks=pytest.mark.slow)
        for driver in ("postgresql", "postgresql+asyncpg", "postgresql+psycopg")
    ),
]


def in_short(verdict: Verdict) -> str:
    """The verdict, its reason, and what was found beside it."""
    text = f"{verdict.kind.value}: {verdict.reason}"
    return " + ".join([text, *(kind.value for kind in verdict.also)])


# What is left behind on purpose, and cannot be closed without the event loop.
@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("backend", DRIVERS, indirect=True)
@pytest.mark.gen_test
@pytest.mark.parametrize("name", SCENARIOS)
async def test_each_column_has_its_verdict(
    name: str, backend: Backend, scratch: DatabaseSettings, expect_log: ExpectLog
):
    """On SQLite and on PostgreSQL the same, and through each asyncio driver; explicit holds or refuses."""
    with expect_log("", "", required=False):  # what fails on purpose is logged
        verdicts = {column: await run_scenario(SCENARIOS[name], column, scratch) for column in COLUMNS}

    expected = dict(zip(pinned.COLUMNS, PINNED[name], strict=True))
    if backend.is_async:
        expected |= ON_THE_LOOP.get(name, {})
    assert {column: in_short(verdict) for column, verdict in verdicts.items()} == expected
    assert verdicts["explicit"].kind in (Kind.HOLDS, Kind.REFUSED)


def test_every_column_is_pinned():
    """The guarded scopes, the plain forms, and what is used instead of them."""
    assert [*pinned.COLUMNS] == [*COLUMNS]
    assert {scenario.group for scenario in SCENARIOS.values()} == {*GROUPS.values()}


def test_every_scenario_is_pinned_and_has_its_promise():
    """No scenario is left out of the pinned ones."""
    assert [*PINNED] == [*SCENARIOS]
    assert all(scenario.promise.endswith(".") for scenario in SCENARIOS.values())


def test_a_promise_is_shown_without_the_markup_of_docstrings():
    """In the list and in the report it is plain text."""
    assert not [name for name, scenario in SCENARIOS.items() if "``" in scenario.promise]
