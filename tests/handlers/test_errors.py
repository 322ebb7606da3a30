"""What an error comes to: its status, its problem, its place in the log; groups of errors too."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado.web import Application, HTTPError

from conf import Settings, SettingsError, load_settings
from conf.logs import LineFormatter
from db import Database
from db.errors import ConnectionLost, NotFound, OutcomeUnknown, PoolTimeout, RetryableConflict
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.errors import Problem, leaves_unknown, meant, status_of
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve
from tests.fixtures.service import MakeApp

AGAIN, LOST, UNKNOWN, FULL = (
    RetryableConflict("deadlock"),
    ConnectionLost(),
    OutcomeUnknown(),
    PoolTimeout("full"),
)
MISSING, FAULT = NotFound("task", 1), ValueError("a fault of ours")


def group(*members: Exception) -> ExceptionGroup[Exception]:
    """As a TaskGroup raises it."""
    return ExceptionGroup("unhandled errors in a TaskGroup", members)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([AGAIN], AGAIN),
        ([group(group(MISSING))], MISSING),
        ([LOST, AGAIN], LOST),  # all of them conflicts: it may be run again
        ([AGAIN, FULL], FULL),  # not all
        ([AGAIN, FULL, UNKNOWN], UNKNOWN),  # which must never be run again
        ([HTTPError(409), Problem(409, "told")], None),
    ],
)
def test_a_group_comes_down_to_one_of_its_members(members: list[Exception], expected: Exception | None):
    together = group(*members)

    assert meant(together) is (expected or members[0])
    assert status_of(together) == status_of(expected or members[0])


@pytest.mark.parametrize("members", [[FAULT], [FAULT, AGAIN], [MISSING, FULL], [UNKNOWN, FAULT]])
def test_a_group_with_a_fault_or_of_several_kinds_is_a_fault(members: list[Exception]):
    together = group(*members)

    assert meant(together) is together
    assert status_of(together) == 500
    assert leaves_unknown(together) == (UNKNOWN in members)


class Faulty(ProblemHandler):
    """Has a fault, and refuses."""

    def get(self) -> None:
        raise ValueError("a fault of ours")

    def post(self) -> None:
        raise Problem(409, "told")


@pytest.mark.gen_test
@pytest.mark.parametrize("served", [True, False])
async def test_a_fault_has_its_stack_in_the_problem_where_that_is_set(
    serve: Serve, expect_log: ExpectLog, served: bool
):
    """Tornado's own ``serve_traceback``, which its ``debug`` turns on. A refusal has none."""
    client = serve(Application([("/", Faulty)], serve_traceback=served))

    with expect_log("onfinish.handlers", "a fault of ours"), expect_log("tornado.access", "^500"):
        fault = (await client.get("/")).json()
    with expect_log("tornado.access", "^409", required=False):
        refusal = (await client.post("/")).json()

    assert "traceback" not in refusal
    if served:
        assert "in get\n" in fault["traceback"]
        assert "ValueError: a fault of ours" in fault["traceback"]
    else:
        assert "fault of ours" not in str(fault)


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_application_serves_tracebacks_in_debug_alone(
    make_application: MakeApp, settings: Settings, database: Database, debug: bool
):
    """Which production refuses."""
    application = make_application(settings.model_copy(update={"debug": debug}), database)

    assert application.settings["serve_traceback"] is debug
    with pytest.raises(SettingsError, match="debug: not with environment 'production'"):
        load_settings({"environment": "production", "debug": "true", "database.url": "postgresql://h/d"}, {})


class Handler(ProblemHandler):
    """Does in a task of its own what may fail."""

    async def get(self, what: str) -> None:
        async def fail() -> None:
            raise {"missing": MISSING, "refused": HTTPError(403), "fault": FAULT, "unknown": UNKNOWN}[what]

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("what", "status", "outcome"),
    [("missing", 404, "not_applied"), ("refused", 403, "not_applied"), ("unknown", 503, "unknown")],
)
async def test_what_a_task_of_a_group_raises_is_answered_as_ever(
    serve: Serve, expect_log: ExpectLog, what: str, status: int, outcome: str
):
    client = serve(Application([(r"/(\w+)", Handler)]))

    with expect_log("", r"OutcomeUnknown|^503 |^40\d ", required=False):
        answer = await client.get(f"/{what}")

    problem = json.loads(answer.body)
    assert (answer.code, problem["status"], problem["outcome"]) == (status, status, outcome)


@pytest.mark.gen_test
async def test_a_fault_in_a_group_is_logged_with_its_own_stack(serve: Serve, expect_log: ExpectLog):
    client = serve(Application([(r"/(\w+)", Handler)]))

    with expect_log("onfinish.handlers", "ExceptionGroup") as records, expect_log("tornado.access", "^500 "):
        answer = await client.get("/fault")

    assert answer.code == 500
    assert "in fail" in LineFormatter().format(records[0])
