"""``/-/requests``: what a request did, statement by statement, and what it could do better."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import tracemalloc
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.web import Application
from tornado.websocket import websocket_connect

from conf import OpsSettings, Settings
from db import Outcome
from db.engines._sqlalchemy import Load
from db.work.recorder import STATEMENTS_MAX, Line, Recording, Span, Statement
from handlers import ApiHandler, SessionWebSocketHandler
from server.monitoring.ops import Ops
from server.pages.requests.findings import findings_of
from server.pages.requests.kept import EACH_MAX, LAST_MAX, KeptRequest, KeptRequests, RecordedUnit
from tests.db.authors import create_authors, list_authors, titles
from tests.fixtures.browser import Page
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.process import StartServer
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER, each_look
from tests.server.pages.looks import faults_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
through_asyncpg = pytest.mark.every_driver("postgresql+asyncpg")


@pytest.fixture
def ops_settings() -> OpsSettings:
    """Statements are recorded."""
    return OpsSettings(lag_s=None, record_requests=True)


def beside(seen: Seen, serve: Serve, routes: list[Any]) -> Client:
    """A client of further routes, whose requests are kept with those of the application."""
    names = ("database", "log_function", "error_page", "server_timing_counts")
    return serve(Application(routes, **{name: seen.application.settings.get(name) for name in names}))


async def kept(seen: Seen, request_id: str) -> dict[str, Any]:
    """The one request with an id, as JSON."""
    answer = await seen.client.get(f"/-/requests/{request_id}.json")
    assert answer.code == 200, answer.body
    [found] = answer.json()["requests"]
    return dict(found)


async def page_of(seen: Seen, request_id: str) -> str:
    """Its page."""
    answer = await seen.client.get(f"/-/requests/{request_id}", headers=BROWSER)
    assert answer.code == 200
    return answer.body.decode()


# -- the timeline


@through_asyncpg
@pytest.mark.gen_test
async def test_a_request_is_shown_with_its_statements_lines_commit_and_answer(seen: Seen):
    """In the order of their times, all of them within the request's own."""
    answer = await seen.client.post("/shelves", {"name": "Store"}, headers={"X-Request-Id": "abc.1"})
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")

    assert answer.code == 201
    assert (found["name"], found["status"], found["outcome"]) == ("POST /shelves", 201, "kept")
    assert found["handler"] == "ShelvesHandler.post"
    [recorded] = found["units"]
    [insert] = [each for each in recorded["statements"] if "INTO shelves" in each["sql"]]
    assert insert["line"]["function"] == "create_shelf"
    assert insert["line"]["text"] == "session.flush()"
    assert found["statements"] == sum(each["counts"] for each in recorded["statements"])
    times = [recorded["connected_ms"], insert["at_ms"], recorded["commit"]["at_ms"], recorded["ended_ms"]]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= found["took_ms"] + 1
    assert recorded["rollback"] is None
    for shown in ("INSERT INTO shelves", "create_shelf", "COMMIT", "the answer left: 201", "on the writer"):
        assert shown in page
    assert page.index("INSERT INTO shelves") < page.index(">COMMIT<") < page.index("the answer left")
    assert "style=" not in page


@through_asyncpg
@pytest.mark.gen_test
async def test_nothing_that_a_client_or_a_driver_says_is_kept(
    seen: Seen, serve: Serve, expect_log: ExpectLog
):
    """Neither parameters, bodies, headers and queries nor the message of an error."""

    class Fails(ApiHandler):
        async def post(self) -> None:
            sql = text("INSERT INTO shelves (name, create_time) VALUES (:name, NULL)")
            await self.run(self.session.execute, sql, {"name": self.get_argument("q")})

    client = beside(seen, serve, [("/fails", Fails)])
    headers = {"X-Request-Id": "abc.1", "Authorization": "SECRET-header"}
    with expect_log("", ".", required=False):
        answer = await client.post("/fails?q=SECRET-query", {"body": "SECRET-body"}, headers=headers)
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")

    assert answer.code >= 400
    [recorded] = found["units"]
    assert any(each["failed"] for each in recorded["statements"])
    assert recorded["commit"] is None
    for shown in (json.dumps(found), page):
        assert "INSERT INTO shelves" in shown
        for word in ("SECRET", "constraint failed", "violates", "NOT NULL"):
            assert word not in shown


@pytest.mark.gen_test
async def test_attempts_are_lanes_of_one_page(seen: Seen, serve: Serve):
    """Each with its own statements and its end; the answer stands behind the last one."""

    class Flaky(Exception):
        """Gone at the second attempt."""

    failed: list[Flaky] = []

    class Retried(ApiHandler):
        retry_on = (Flaky,)

        async def post(self) -> None:
            await self.run(self.session.execute, text("UPDATE shelves SET name = name"))
            self.in_new_transaction(audit)
            if not failed:
                failed.append(Flaky())
                raise failed[0]

    def audit(session: Session) -> None:
        session.execute(text("SELECT 'audited'"))

    client = beside(seen, serve, [("/retried", Retried)])
    answer = await client.post("/retried", headers={"X-Request-Id": "abc.1"})
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")
    lists = (await seen.client.get("/-/requests.json")).json()

    assert answer.code == 200
    assert [recorded["attempt"] for recorded in found["units"]] == [1, 2, 0]
    assert [recorded["outcome"] for recorded in found["units"]] == ["undone", "kept", "kept"]
    first, second, audited = found["units"]
    assert first["rollback"] is not None
    assert second["commit"]["at_ms"] > first["ended_ms"]
    assert "SELECT 'audited'" in [each["sql"] for each in audited["statements"]]
    assert page.count("the answer left:") == 1
    for shown in ("attempt 1", "undone, retried", "attempt 2", "ROLLBACK", "in a transaction of its own"):
        assert shown in page
    assert [each["request_id"] for each in lists["worst"] if "retried" in each["reasons"]] == ["abc.1"]


@pytest.mark.gen_test
async def test_a_request_that_has_not_ended_is_shown_as_far_as_it_has_come(seen: Seen, serve: Serve):
    """`/-/live` links to it."""
    go_on = asyncio.Event()

    class Waits(ApiHandler):
        async def post(self) -> None:
            await self.run(self.session.execute, text("SELECT 'so far'"))
            await go_on.wait()

    client = beside(seen, serve, [("/waits", Waits)])
    request = asyncio.create_task(client.post("/waits", headers={"X-Request-Id": "abc.1"}))
    for _ in range(100):
        if b"so far" in (await seen.client.get("/-/requests/abc.1.json")).body:
            break
        await asyncio.sleep(0.02)
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")
    await asyncio.sleep(0.15)
    live = (await seen.client.get("/-/live", headers=BROWSER)).body.decode()
    go_on.set()

    assert (await request).code == 200
    assert (found["open"], found["status"], found["outcome"]) == (True, None, "open")
    assert "It has not ended" in page
    assert 'href="../-/requests/abc.1"' in live


@pytest.mark.gen_test
async def test_a_job_is_kept_too(seen: Seen):
    """By its label, with an id of its own."""

    def job() -> None:
        with seen.database.session_scope(label="nightly job") as session:
            session.execute(text("SELECT 1"))

    await asyncio.to_thread(job)
    last = (await seen.client.get("/-/requests.json")).json()["last"]

    [found] = [each for each in last if each["name"] == "nightly job"]
    assert (await kept(seen, found["request_id"]))["units"][0]["statements"][0]["sql"] == "SELECT 1"


@on_sqlite
@pytest.mark.gen_test
async def test_checks_of_readiness_displace_no_request(seen: Seen):
    """A load balancer asks all the time."""
    await seen.client.get("/shelves", headers={"X-Request-Id": "abc.1"})
    for _ in range(3):
        assert (await seen.client.get("/readyz")).code == 200
    last = (await seen.client.get("/-/requests.json")).json()["last"]

    assert [each["request_id"] for each in last] == ["abc.1"]


@pytest.mark.gen_test
async def test_each_message_of_a_socket_is_kept_by_itself(seen: Seen, serve: Serve):
    """As soon as it is answered, with the socket's id: a socket may stay open for ever."""

    class Echo(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(self.session.execute, text("SELECT 'of a message'"))
            await self.write_message(message)

    client = beside(seen, serve, [("/echo", Echo)])
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/echo")
    for _ in range(2):
        await socket.write_message("hello")
        assert await socket.read_message() == "hello"
    last = (await seen.client.get("/-/requests.json")).json()["last"]
    socket.close()

    first, second = [each for each in last if each["name"] == "message Echo"]
    assert first["request_id"] == second["request_id"]
    body = (await seen.client.get(f"/-/requests/{first['request_id']}.json")).json()
    assert len(body["requests"]) == 2
    assert "of a message" in json.dumps(body)


# -- what could be done better


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
    [finding] = (await kept(seen, "abc.1"))["findings"]

    assert "test_requests.py" in finding["line"]
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
    assert "test_requests.py" in finding["line"]
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


@pytest.mark.parametrize(("streams", "kinds"), [(False, ["held"]), (True, [])])
def test_a_response_that_is_streamed_holds_its_connection_for_its_client(streams: bool, kinds: list[str]):
    recorded = recorded_of(*statements_of(1), ended_at=3.0)

    assert [each.kind for each in findings_of(recorded, streams=streams)] == kinds


def test_a_unit_with_more_statements_than_are_kept_was_busy_with_these():
    recorded = recorded_of(*statements_of(1), ended_at=3.0)
    recorded.recording.more = 1

    assert findings_of(recorded) == []


# -- which are kept


def request_of(serial: int, *reasons: Any, **options: Any) -> KeptRequest:
    """A request that has ended."""
    return KeptRequest(
        **{
            "process": 0,
            "serial": serial,
            "request_id": f"id.{serial}",
            "name": "GET /",
            "method": "GET",
            "path": "/",
            "handler": "Home.get",
            "status": 200,
            "at_s": float(serial),
            "began_at": 0.0,
            "took_s": 0.1,
            "outcome": "read",
            "statements": 1,
            "attempts": 1,
            "reasons": reasons,
            **options,
        }
    )


def test_the_last_and_the_worst_are_kept_and_no_more():
    """The newest of each reason: a flood of one displaces none of another."""
    requests = KeptRequests()
    requests.add(request_of(1, "slow", "retried"), last=True)
    for serial in range(2, 1000):
        requests.add(request_of(serial, "failed"), last=True)
    requests.add(request_of(1000, "unknown"), last=False)

    assert [each.serial for each in requests.last] == [*range(1000 - LAST_MAX, 1000)]
    assert [each.serial for each in requests.worst] == [1000, *range(999, 999 - EACH_MAX, -1), 1]
    assert [each.serial for each in requests.find("id.1")] == [1000, 1]
    assert [*requests.find("id.500")] == []


@on_sqlite
@pytest.mark.gen_test(timeout=120)
async def test_memory_is_bounded(seen: Seen, serve: Serve, expect_log: ExpectLog):
    """Requests with more and longer statements than are kept: what is held stops growing."""

    class Many(ApiHandler):
        async def get(self) -> None:
            await self.run(many, self.session)

    def many(session: Session) -> None:
        for number in range(STATEMENTS_MAX + 20):
            session.execute(text(f"SELECT {number} AS a{'x' * 500}"))

    log = seen.application.settings["pages"].log
    client = beside(seen, serve, [("/many", Many)])
    await client.get("/many")
    gc.collect()
    tracemalloc.start()
    await client.get("/many")
    gc.collect()
    of_one = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    [*_, last] = log.kept.last
    [recorded] = last.units
    assert len(recorded.recording.statements) == STATEMENTS_MAX
    assert recorded.recording.more == 20
    assert of_one < 400_000  # times two hundred, and no more
    assert len(log._units) == 0
    assert log.kept.last.maxlen == LAST_MAX


@on_sqlite
@pytest.mark.gen_test
async def test_off_nothing_is_recorded_and_the_worst_are_kept_without_statements(
    settings, make_application: MakeApp, serve: Serve, database, expect_log: ExpectLog
):
    """As in production: the dialect's methods are the same objects, and requests that went well are gone."""
    production = settings.model_copy(update={"environment": "production"})
    ops = Ops(production)
    before = vars(database.writer.engine.dialect)["do_execute"]
    application = make_application(production, database, ops)

    class Fails(ApiHandler):
        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))
            raise ZeroDivisionError

    application.add_handlers(".*", [("/fails", Fails)])
    client = serve(application)
    await ops.start(application, database, None)  # type: ignore[arg-type]  # it is asked for nothing here
    after = vars(database.writer.engine.dialect)["do_execute"]
    await client.get("/shelves")
    with expect_log("onfinish.handlers", "ZeroDivisionError"), expect_log("tornado.access", "^500"):
        await client.get("/fails", headers={"X-Request-Id": "abc.1"})
    log = application.settings["pages"].log
    await ops.stop()

    assert after is before
    assert not log.is_recording
    assert [*log.kept.last] == []
    [worst] = log.kept.worst
    assert (worst.request_id, worst.status, worst.statements) == ("abc.1", 500, 1)
    assert worst.reasons == ("failed",)
    assert worst.units == ()


@pytest.mark.parametrize(
    ("environment", "setting", "records"),
    [
        ("development", None, True),
        ("testing", None, False),
        ("production", None, False),
        ("staging", None, False),
        ("production", True, True),
        ("development", False, False),
    ],
)
def test_requests_are_recorded_in_development_and_elsewhere_where_it_is_set(
    environment: str, setting: bool | None, records: bool
):
    settings = Settings(environment=environment, ops=OpsSettings(record_requests=setting))

    assert settings.records_requests is records


@on_sqlite
@pytest.mark.gen_test
async def test_when_the_process_ends_the_recorder_is_gone(settings, make_application: MakeApp, ops_settings):
    seen = Seen(settings.model_copy(update={"ops": ops_settings}), make_application)
    dialect = seen.database.writer.engine.dialect
    before = vars(dialect)["do_execute"]
    await seen.start()
    during = vars(dialect)["do_execute"]
    await seen.stop()

    assert during is not before
    assert vars(dialect)["do_execute"] is before
    assert "do_begin" not in vars(dialect)


@on_sqlite
@pytest.mark.gen_test
async def test_an_outcome_that_is_not_known_is_among_the_worst(seen: Seen, serve: Serve):
    """Also where the answer itself says nothing of it."""

    class Plain(ApiHandler):
        _work = Outcome.UNKNOWN

        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))

    client = beside(seen, serve, [("/plain", Plain)])
    await client.get("/plain", headers={"X-Request-Id": "abc.1"})

    assert (await kept(seen, "abc.1"))["reasons"] == ["unknown"]


@on_sqlite
@pytest.mark.gen_test
async def test_requests_of_one_id_are_on_one_page(seen: Seen):
    """A client may choose an id, and send it twice."""
    for _ in range(2):
        await seen.client.get("/shelves", headers={"X-Request-Id": "twice"})
    body = (await seen.client.get("/-/requests/twice.json")).json()
    page = await page_of(seen, "twice")

    first, second = body["requests"]
    assert first["serial"] > second["serial"]
    assert page.count("<article>") == 2


@on_sqlite
@pytest.mark.gen_test
async def test_an_id_that_is_not_kept_is_404_and_the_page_says_what_is_kept(seen: Seen):
    page = await seen.client.get("/-/requests/unknown", headers=BROWSER)
    problem = await seen.client.get("/-/requests/unknown.json")

    assert (page.code, problem.code) == (404, 404)
    assert b"No such request is kept" in page.body
    assert problem.headers["Content-Type"] == "application/problem+json"


@pytest.mark.usefixtures("shelves")
def test_whichever_of_two_processes_is_asked_finds_a_request_of_the_other(
    database_url: str, start_server: StartServer
):
    server = start_server("--processes", "2", "--grace-s", "0", "--record-requests", url=database_url)
    served: dict[int, str] = {}
    for _ in range(200):  # one that is idle may be served by the same process many times
        request_id = server.request("GET", "/shelves").headers["X-Request-Id"]
        lists = server.request("GET", "/-/requests.json").body
        newest = lists["last"][0]
        assert newest["request_id"] == request_id
        served[newest["process"]] = request_id
        if len(served) == 2:
            break

    assert served.keys() == {0, 1}
    assert lists["recording"]
    assert lists["stuck_processes"] == []
    for _ in range(5):
        for process, request_id in served.items():
            [found] = server.request("GET", f"/-/requests/{request_id}.json").body["requests"]
            assert (found["process"], found["units"][0]["statements"][0]["line"]["function"]) == (
                process,
                "list_shelves",
            )

    pids = [each["pid"] for each in server.request("GET", "/stats").body["processes"]]
    os.kill(pids[1], signal.SIGSTOP)
    try:
        of_one = server.request("GET", "/-/requests.json").body
    finally:
        os.kill(pids[1], signal.SIGCONT)
    assert of_one["stuck_processes"] == [1]
    assert {each["process"] for each in of_one["last"]} == {0}


@on_sqlite
@pytest.mark.gen_test
async def test_the_beginning_of_an_id_finds_the_newest_that_begin_so_and_a_whole_id_itself_alone(seen: Seen):
    """An id that is the beginning of others is found by itself."""
    for number in ("", *range(12)):
        await seen.client.get("/shelves", headers={"X-Request-Id": f"8a41{number}"})
    whole = (await seen.client.get("/-/requests/8a41.json")).json()
    begun = (await seen.client.get("/-/requests/8a4.json")).json()
    page = await page_of(seen, "8a4")

    assert ([each["request_id"] for each in whole["requests"]], whole["more"]) == (["8a41"], False)
    assert [each["request_id"] for each in begun["requests"]] == [f"8a41{at}" for at in range(11, 1, -1)]
    assert begun["more"]
    assert page.count("<article>") == 10
    assert "Older ones begin so as well" in page


@on_sqlite
@pytest.mark.debian
@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.gen_test(timeout=60)
async def test_a_request_is_looked_for_by_the_beginning_of_its_id(seen: Seen, page: Page, scripts: bool):
    """In a field; without scripts, which send it, the page says the address."""
    await seen.client.get("/shelves", headers={"X-Request-Id": "8a41c7d2"})
    await page.open(f"http://127.0.0.1:{seen.client.port}/-/requests", scripts=scripts)
    shown = await page.evaluate("document.body.innerText")

    assert ("-/requests/8a41" in shown) is not scripts
    assert ("id of a request" in shown) is scripts
    if scripts:
        await page.evaluate("document.querySelector('#find input').value = ' 8a4 '")
        await page.evaluate("document.querySelector('#find button').click()")
        for _ in range(100):
            shown = await page.evaluate("document.body?.innerText ?? ''")
            if "GET /shelves" in shown and "8a41c7d2" in shown and "attempt 1" in shown:
                break
            await asyncio.sleep(0.05)
        assert "attempt 1: read" in shown
        assert await page.evaluate("location.pathname") == "/-/requests/8a4"


# -- where it is linked from, who sees it, how it looks


@on_sqlite
@pytest.mark.gen_test
async def test_the_page_of_an_error_links_to_its_timeline(seen: Seen):
    """Of one that had no session as well."""
    for path in ("/shelves/999", "/nowhere"):
        page = await seen.client.get(path, headers={**BROWSER, "X-Request-Id": "abc.1"})
        root = "../" * (path.count("/") - 1) or "./"
        assert f'<a href="{root}-/requests/abc.1">' in page.body.decode(), path

    assert "It had no session." in await page_of(seen, "abc.1")


@on_sqlite
@pytest.mark.gen_test
async def test_the_page_of_an_error_links_to_nothing_that_a_caller_may_not_see(seen: Seen):
    page = await seen.client.get("/nowhere", headers={**BROWSER, "Via": "1.1 proxy"})

    assert b"-/requests" not in page.body


@on_sqlite
@pytest.mark.gen_test
async def test_markup_in_a_path_a_label_or_a_statement_is_text(seen: Seen, serve: Serve):
    class Shows(ApiHandler):
        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT '<i>statement</i>'"))

    def job() -> None:
        with seen.database.session_scope(label="<i>label</i>") as session:
            session.execute(text("SELECT 1"))

    client = beside(seen, serve, [("/.*", Shows)])
    await client.get("/<i>path</i>", headers={"X-Request-Id": "abc.1"})
    await asyncio.to_thread(job)
    last = (await seen.client.get("/-/requests.json")).json()["last"]
    [of_job] = [each["request_id"] for each in last if each["name"] == "<i>label</i>"]
    pages = [
        await page_of(seen, "abc.1"),
        await page_of(seen, of_job),
        (await seen.client.get("/-/requests", headers=BROWSER)).body.decode(),
    ]

    for page in pages:
        assert "<i>" not in page.replace('<i class="', "")
    assert "&lt;i&gt;statement&lt;/i&gt;" in pages[0]
    assert "&lt;i&gt;path&lt;/i&gt;" in pages[0]
    assert "&lt;i&gt;label&lt;/i&gt;" in pages[1]
    assert "&lt;i&gt;label&lt;/i&gt;" in pages[2]


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"Host": "evil.example"}, 404), ({"Via": "1.1 proxy"}, 404)]
)
@pytest.mark.parametrize("path", ["", ".json", "/abc.1", "/abc.1.json"])
@pytest.mark.gen_test
async def test_it_is_for_operators(headers: dict[str, str], status: int, path: str, seen: Seen):
    await seen.client.get("/shelves", headers={"X-Request-Id": "abc.1"})

    answer = await seen.client.get(f"/-/requests{path}", headers=headers)

    assert answer.code == status
    if status == 404:
        assert b"SELECT" not in answer.body


@on_sqlite
@pytest.mark.parametrize(
    ("environment", "timing"), [("testing", 'db;dur=N;desc="1 statement"'), ("production", "db;dur=N")]
)
@pytest.mark.gen_test
async def test_server_timing_has_the_number_of_statements_except_in_production(
    environment: str, timing: str, settings, make_application: MakeApp, serve: Serve, database
):
    application = make_application(settings.model_copy(update={"environment": environment}), database)
    client = serve(application)

    answer = await client.get("/shelves")

    [of_database, *_] = answer.headers["Server-Timing"].split(", ")
    number = of_database.partition("=")[2].partition(";")[0]
    assert of_database.replace(number, "N", 1) == timing


@pytest.fixture
def busy(seen: Seen, serve: Serve, sql: RawSql) -> Client:
    """A client of handlers whose requests have something to show."""
    create_authors(sql, authors=60)

    class Report(ApiHandler):
        retry_on = (ZeroDivisionError,)
        tries = 0

        async def post(self) -> None:
            await self.run(list_authors, self.session)
            await self.run(titles, self.session)
            if not Report.tries:
                Report.tries += 1
                raise ZeroDivisionError
            await self.run(self.session.execute, text("UPDATE authors SET name = name"))
            await asyncio.sleep(0.15)

    return beside(seen, serve, [("/reports/[0-9]+", Report)])


@on_sqlite
@pytest.mark.debian
@each_look
@pytest.mark.gen_test(timeout=60)
async def test_it_looks_well_in_a_browser(
    width: int, scheme: str, seen: Seen, busy: Client, page: Page, expect_log: ExpectLog
):
    """Without scripts."""
    with expect_log("", ".", required=False):
        for number in range(3):
            await busy.post(f"/reports/{number}", headers={"X-Request-Id": f"8a41c7d2f0e94b51.{number}"})
        await busy.get("/reports/1")
    await seen.client.get("/shelves")
    port = seen.client.port
    for path, status in (
        ("/-/requests", 200),
        ("/-/requests/8a41c7d2f0e94b51.0", 200),
        ("/-/requests/unknown", 404),
    ):
        await page.open(f"http://127.0.0.1:{port}{path}", width=width, scheme=scheme, scripts=False)

        assert await faults_of(page, width=width, port=port, status=status) == [], path
    await page.open(f"http://127.0.0.1:{port}/-/requests/8a41c7d2f0e94b51.0", width=width, scheme=scheme)
    bars = (
        "[...document.querySelectorAll('.statements path')].filter(p => p.getBoundingClientRect().width > 0)"
    )
    assert await page.evaluate(f"{bars}.length") > 4
    assert "2 attempts" in await page.evaluate("document.body.innerText")
