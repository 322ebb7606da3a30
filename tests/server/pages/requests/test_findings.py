"""``/-/requests``: what a request could do better."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from db.engines._sqlalchemy import Load
from db.work.recorder import Line, Recording, Span, Statement
from handlers import ApiHandler
from server.pages.requests.findings import findings_of
from server.pages.requests.kept import RecordedUnit
from tests.db.authors import create_authors, titles
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER
from tests.server.pages.requests.conftest import beside, kept, page_of

through_asyncpg = pytest.mark.every_driver("postgresql+asyncpg")


@through_asyncpg
@pytest.mark.gen_test
async def test_a_lazy_load_in_a_loop_is_named_with_line_attribute_and_loader(
    seen: Seen, serve: Serve, sql: RawSql, expect_log: ExpectLog
):
    """On the page, in the list, and in the log once a line."""
    create_authors(sql, authors=6)

    class Lists(ApiHandler):
        async def get(self) -> None:
            self.write_json({"items": await self.run(titles, self.session)})

    client = beside(seen, serve, [("/titles", Lists)])
    with expect_log("onfinish.requests", "6 times the same SELECT") as logged:
        for number in range(3):
            await client.get("/titles", headers={"X-Request-Id": f"abc.{number}"})
    found = await kept(seen, "abc.2")
    page = await page_of(seen, "abc.2")
    lists = (await seen.client.get("/-/requests", headers=BROWSER)).body.decode()

    [finding] = found["findings"]
    assert finding["told"] == "6 times the same SELECT, one for each row"
    assert "tests/db/authors.py" in finding["line"]
    assert finding["line"].endswith("titles")
    assert finding["code"] == "select(Author).options(selectinload(Author.poems))"
    assert found["reasons"] == ["wasteful"]
    assert len(logged) == 1
    assert finding["line"] in logged[0].getMessage()
    assert finding["code"] in logged[0].getMessage()
    for shown in ("Author.poems", "select(Author).options(selectinload(Author.poems))", "6 × the same"):
        assert shown in page
    assert "loads Author.poems lazily" in page
    assert "6 times the same SELECT" in lists


@pytest.mark.gen_test
async def test_few_lazy_loads_never_warn(seen: Seen, serve: Serve, sql: RawSql):
    """Four of them are no loop; any warning fails this test."""
    create_authors(sql, authors=4)

    class Lists(ApiHandler):
        async def get(self) -> None:
            self.write_json({"items": await self.run(titles, self.session)})

    client = beside(seen, serve, [("/titles", Lists)])
    await client.get("/titles", headers={"X-Request-Id": "abc.1"})

    assert (await kept(seen, "abc.1"))["findings"] == []


@through_asyncpg
@pytest.mark.gen_test
async def test_a_select_that_a_handler_sends_in_a_loop_is_found_too(
    seen: Seen, serve: Serve, expect_log: ExpectLog
):
    """By the handler's line, where a library's function is run; there is no loader to name."""

    class Loops(ApiHandler):
        async def get(self) -> None:
            for number in range(5):
                await self.run(self.session.execute, text("SELECT :number"), {"number": str(number)})

    client = beside(seen, serve, [("/loops", Loops)])
    with expect_log("onfinish.requests", "5 times the same SELECT"):
        await client.get("/loops", headers={"X-Request-Id": "abc.1"})
    findings = (await kept(seen, "abc.1"))["findings"]
    # On a busy machine it may also have held its connection between two of them.
    [finding] = [each for each in findings if each["kind"] == "n+1"]

    assert "test_findings.py" in finding["line"]
    assert finding["line"].endswith(" get")
    assert finding["code"] == "select(…).where(….in_(…))"


@through_asyncpg
@pytest.mark.gen_test
async def test_a_connection_that_is_held_while_something_else_is_awaited_was_held_for_nothing(
    seen: Seen, serve: Serve
):
    """The line before the wait is named, and what to write; behind `commit()` it is not held."""

    class Holds(ApiHandler):
        async def post(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))
            if self.get_argument("commits", ""):
                await self.commit()
            await asyncio.sleep(0.2)  # another service

    client = beside(seen, serve, [("/holds", Holds)])
    await client.post("/holds", headers={"X-Request-Id": "holds.1"})
    await client.post("/holds?commits=1", headers={"X-Request-Id": "commits.1"})
    [finding] = (await kept(seen, "holds.1"))["findings"]
    page = await page_of(seen, "holds.1")

    assert finding["kind"] == "held"
    assert finding["code"] == "await self.commit()"
    assert "test_findings.py" in finding["line"]
    assert "Held for nothing for 2" in page
    assert "await self.commit()" in page
    assert (await kept(seen, "commits.1"))["findings"] == []


LINE = Line("/app/reports.py", 36, "team_report")


def recorded_of(*statements: Statement, ended_at: float = 10.0, **options: Any) -> RecordedUnit:
    """A unit of work that began at 0 and had its connection from then on."""
    recording = Recording()
    recording.connected_at = 0.0
    recording.statements += statements
    recording.commit = Span(ended_at - 0.01, 0.01)
    return RecordedUnit(
        **{
            "label": "POST Reports",
            "attempt": 1,
            "pool": "writer",
            "outcome": "kept",
            "opened_at": 0.0,
            "ended_at": ended_at,
            "queued_at": None,
            "queued_s": 0.0,
            "db_s": ended_at,
            "statements": len(statements),
            "limit_s": None,
            "recording": recording,
            **options,
        }
    )


def statements_of(times: int, sql: str = "SELECT 1", *, load: Load | None = None, took_s: float = 1.0):
    """Equal statements, one after the other without a pause."""
    return [Statement(at * took_s, took_s, sql, 1, LINE, load, True, False) for at in range(times)]


@pytest.mark.parametrize(
    ("statements", "kinds"),
    [
        (statements_of(4), []),
        (statements_of(5), ["n+1"]),
        (statements_of(5, "  with x as (select 1) select * from x"), ["n+1"]),
        (statements_of(5, "INSERT INTO x VALUES (1)"), []),  # rows are written one by one where they have to
        (statements_of(9, load=Load("Task", "transfers", False, "selectinload")), []),  # the loader's own
        (statements_of(9, load=Load("Task", "transfers", True, "selectinload")), ["n+1"]),
        ([each._replace(line=None) for each in statements_of(9)], []),
        ([each._replace(line=LINE._replace(number=at)) for at, each in enumerate(statements_of(9))], []),
    ],
)
def test_five_equal_selects_from_one_line_are_a_loop(statements: list[Statement], kinds: list[str]):
    """Of a loader that reads in pieces they are none."""
    recorded = recorded_of(*statements, ended_at=len(statements) + 0.01)

    assert [each.kind for each in findings_of(recorded)] == kinds


def test_a_loader_is_named_as_it_is_written():
    told = {}
    for load in (
        Load("Task", "transfers", True, "selectinload"),
        Load("Task", "team", True, "joinedload"),
        Load("Task", "notes", True, "undefer"),
        Load("Task", "update_time", True, ""),
    ):
        [finding] = findings_of(recorded_of(*statements_of(5, load=load), ended_at=5.01))
        told[load.attribute] = finding.code

    assert told == {
        "transfers": "select(Task).options(selectinload(Task.transfers))",
        "team": "select(Task).options(joinedload(Task.team))",
        "notes": "select(Task).options(undefer(Task.notes))",
        "update_time": "",
    }


@pytest.mark.parametrize(
    ("pause_s", "kinds"), [(0.01, []), (0.03, ["held"])], ids=["of the mapper", "of something else"]
)
def test_short_pauses_between_statements_belong_to_the_work(pause_s: float, kinds: list[str]):
    """Thirty of them: 0.3 s are no finding, 0.9 s are one."""
    times = [at * (0.001 + pause_s) for at in range(30)]
    statements = [Statement(at, 0.001, f"SELECT {at}", 1, LINE, None, True, False) for at in times]

    assert [each.kind for each in findings_of(recorded_of(*statements, ended_at=times[-1] + 0.011))] == kinds


@pytest.mark.parametrize(
    ("db_s", "meanwhile"),
    [
        (0.3, "while its handler awaited something else, such as another service"),
        (9.9, "while its code ran on"),
    ],
)
def test_what_was_done_while_a_connection_was_held_is_told_awaiting_from_code(db_s: float, meanwhile: str):
    """By whether a call was under way."""
    [held] = findings_of(recorded_of(*statements_of(1, took_s=0.1), db_s=db_s))

    assert held.told == "Held for nothing for 9.9 s"
    assert meanwhile in held.about


@pytest.mark.parametrize(("streams", "kinds"), [(False, ["held"]), (True, [])])
def test_a_response_that_is_streamed_holds_its_connection_for_its_client(streams: bool, kinds: list[str]):
    recorded = recorded_of(*statements_of(1), ended_at=3.0)

    assert [each.kind for each in findings_of(recorded, streams=streams)] == kinds


def test_a_unit_with_more_statements_than_are_kept_was_busy_with_these():
    recorded = recorded_of(*statements_of(1), ended_at=3.0)
    recorded.recording.more = 1

    assert findings_of(recorded) == []
