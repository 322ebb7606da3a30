"""`pages_for`: the pages of an application of one's own, which has a `Database` and none of the server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import threading
from typing import Any

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.orm import Session
from tornado.web import Application, RequestHandler
from tornado.websocket import websocket_connect

from conf import DatabaseSettings, Settings
from db import Database, Jobs
from db.observer import ObservedUnit, Observer
from handlers import ApiHandler, SessionHandler, SessionWebSocketHandler
from server.app import make_app
from server.monitoring.ops import Ops
from server.pages import pages_for
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client, Serve
from tests.server.pages.conftest import BROWSER, live_when

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
through_asyncpg = pytest.mark.every_driver("postgresql+asyncpg")


class Reads(SessionHandler):
    """Tornado's own face, one statement."""

    async def get(self, name: str = "") -> None:
        await self.run(self.session.execute, text("SELECT 1 AS one"))
        self.finish("1")


def select_one(session: Session) -> None:
    """One statement, in a transaction."""
    session.execute(text("SELECT 1"))


async def write(database: Database) -> None:
    """A unit of work on the writer, whose transaction takes the write lock of a file."""
    async with database.unit_of_work(label="there") as there:
        await there.run(select_one, there.session)


def served(serve: Serve, database: Database, *routes: Any, **settings: Any) -> Client:
    """A client of an application of one's own with pages, whose first route is `Reads`."""
    return serve(
        Application([("/reads", Reads), *routes, *pages_for(database)], database=database, **settings)
    )


async def kept(client: Client, request_id: str) -> dict[str, Any]:
    """The only request that is kept with an id."""
    [found] = (await client.get(f"/-/requests/{request_id}.json")).json()["requests"]
    return dict(found)


async def kept_as(client: Client, name: str) -> dict[str, Any]:
    """The only one that is kept with a name."""
    last = (await client.get("/-/requests.json")).json()["last"]
    [found] = [each for each in last if each["name"] == name]
    return await kept(client, found["request_id"])


def sql_of(request: dict[str, Any]) -> list[str]:
    """The statements of all its units of work, but for BEGIN."""
    return [each["sql"] for unit in request["units"] for each in unit["statements"] if each["counts"]]


# -- what is shown


@through_asyncpg
@pytest.mark.gen_test
async def test_each_page_is_there_in_each_form(database: Database, serve: Serve, expect_log: ExpectLog):
    """For a browser, a program and a terminal; with the links of these alone, and all that they load."""
    client = served(serve, database)
    await client.get("/reads", headers={"X-Request-Id": "abc.1"})

    for path in ("/-/live", "/-/requests", "/-/requests/abc.1"):
        page = await client.get(path, headers=BROWSER)
        assert (page.code, (await client.get(f"{path}.json")).code) == (200, 200), path
        assert page.headers["Content-Type"].startswith("text/html")
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
        [nav] = re.findall(r"<nav.*?</nav>", page.body.decode(), re.DOTALL)
        up = "../" * (path.count("/") - 1)
        assert re.findall(r'href="([^"]*)"', nav) == [f"{up}-/live", f"{up}-/requests"]
        for asset in re.findall(r'(?:href|src)="[./]*(-/assets/[^"]+)"', page.body.decode()):
            assert (await client.get(f"/{asset}")).code == 200, asset
    assert (await client.get("/-/live.txt")).code == 200
    with expect_log("tornado.access", "^404 GET /-/nothing"):
        assert (await client.get("/-/nothing")).code == 404


@through_asyncpg
@pytest.mark.gen_test
async def test_the_very_first_request_has_its_timeline(database: Database, serve: Serve):
    """Nothing has been asked for before it: with its route, its handler's line, the answer."""
    client = served(serve, database, (r"/reads/(?P<name>\w+)", Reads))

    await client.get("/reads/one", headers={"X-Request-Id": "abc.1"})

    request = await kept(client, "abc.1")
    assert (request["name"], request["handler"]) == ("GET /reads/{name}", "Reads.get")
    assert (request["status"], request["outcome"]) == (200, "read")
    assert sql_of(request) == ["SELECT 1 AS one"]
    [statement] = [each for each in request["units"][0]["statements"] if each["counts"]]
    assert statement["line"]["text"] == 'await self.run(self.session.execute, text("SELECT 1 AS one"))'


@through_asyncpg
@pytest.mark.gen_test
async def test_a_transaction_that_is_idle_is_shown_with_the_line_at_which_its_handler_waits(
    database: Database, serve: Serve
):
    """As the server shows it, where nothing was set for that."""
    go_on = asyncio.Event()

    class Notifies(SessionHandler):
        async def post(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))
            await go_on.wait()  # a call to another service

    client = served(serve, database, ("/notify", Notifies))
    await client.get("/reads")
    request = asyncio.create_task(client.post("/notify", headers={"X-Request-Id": "abc.1"}))
    live = await live_when(
        client, lambda live: [unit for unit in live["units"] if unit["headline"].startswith("idle in its")]
    )
    so_far = await kept(client, "abc.1")
    go_on.set()

    assert (await request).code == 200
    [unit] = live["units"]
    assert (unit["name"], unit["request_id"]) == ("POST /notify", "abc.1")
    assert unit["headline"].startswith("idle in its transaction")
    assert unit["place"]["text"] == "await go_on.wait()  # a call to another service"
    assert (so_far["open"], sql_of(so_far)) == (True, ["SELECT 1"])


@on_sqlite
@pytest.mark.gen_test
async def test_a_request_is_named_by_its_route_whatever_the_host_that_this_is_for(
    database: Database, serve: Serve
):
    application = Application([*pages_for(database)], database=database)
    application.add_handlers("one.example", [(r"/ones/(?P<name>\w+)", Reads)])
    application.add_handlers("two.example", [(r"/twos/(?P<name>\w+)", Reads)])
    client = serve(application)

    for host, path, request_id in (("one", "/ones/a", "abc.1"), ("two", "/twos/a", "abc.2")):
        await client.get(path, headers={"Host": f"{host}.example", "X-Request-Id": request_id})

    assert (await kept(client, "abc.1"))["name"] == "GET /ones/{name}"
    assert (await kept(client, "abc.2"))["name"] == "GET /twos/{name}"


@pytest.mark.gen_test
async def test_ten_minutes_of_pools_and_outcomes_are_kept(database: Database, serve: Serve):
    """A sample each second, from the first request on."""
    client = served(serve, database)
    await client.get("/reads")
    async with database.unit_of_work(label="by itself") as unit:
        await unit.run(unit.session.execute, text("SELECT 1"))

    live = await live_when(client, lambda live: live["counts"]["read"] and live["counts"]["kept"])

    assert (live["counts"]["read"], live["counts"]["kept"]) == (1, 1)
    assert 0 in live["pools"]["writer"]["history"]["taken"]


@pytest.mark.gen_test
async def test_messages_scopes_and_jobs_are_shown_as_the_server_shows_them(database: Database, serve: Serve):
    """While they are open, and when they have ended: by their labels."""
    leave, left = threading.Event(), threading.Event()

    def job(session: Any) -> None:
        session.execute(text("SELECT 'of a job'"))
        leave.wait(10)  # the job's line
        left.set()

    class Echo(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(self.session.execute, text("SELECT 'of a message'"))
            await self.write_message(message)

    def scope() -> None:
        with database.session_scope(label="nightly") as session:
            session.execute(text("SELECT 'of a scope'"))

    client = served(serve, database, ("/echo", Echo))
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/echo")
    await socket.write_message("hello")
    assert await socket.read_message() == "hello"
    socket.close()
    await asyncio.to_thread(scope)
    jobs = Jobs(database)
    jobs.every(0.01, job, label="a job")
    live = await live_when(client, lambda live: live["units"] and live["units"][0]["place"])
    stopping = asyncio.create_task(jobs.stop())
    leave.set()
    await stopping
    assert await asyncio.to_thread(left.wait, 10)

    [unit] = live["units"]
    assert (unit["name"], unit["place"]["text"]) == ("a job", "leave.wait(10)  # the job's line")
    for name, sql in (("message Echo", "message"), ("nightly", "scope"), ("a job", "job")):
        assert sql_of(await kept_as(client, name))[0] == f"SELECT 'of a {sql}'"


@on_sqlite
@pytest.mark.gen_test
async def test_pools_and_units_of_other_databases_are_shown_by_their_names(
    database: Database, serve: Serve, tmp_path: Any
):
    """Those of the setting ``databases``; a unit of work there is one of the request too."""
    billing = Database(DatabaseSettings(url=f"sqlite:///{tmp_path / 'billing.db'}"))
    go_on = asyncio.Event()

    class Bills(SessionHandler):
        async def post(self) -> None:
            await self.run(select_one, self.session_of("billing"))
            await go_on.wait()

    client = served(serve, database, ("/bills", Bills), databases={"billing": billing})
    request = asyncio.create_task(client.post("/bills", headers={"X-Request-Id": "abc.1"}))
    live = await live_when(
        client,
        lambda live: [unit for unit in live["units"] if unit["sql"] and unit["headline"].startswith("idle")],
    )
    page = (await client.get("/-/live", headers=BROWSER)).body.decode()
    as_text = (await client.get("/-/live.txt")).body.decode()
    go_on.set()
    await request
    await billing.close()

    assert [*live["pools"]] == ["writer", "reader", "billing writer", "billing reader"]
    assert live["pools"]["billing writer"]["taken"] == 1
    [unit] = [unit for unit in live["units"] if unit["sql"]]
    assert (unit["pool"], unit["request_id"], unit["sql"]) == ("billing writer", "abc.1", "SELECT 1")
    assert unit["headline"].startswith("idle in its transaction")
    assert "<b>billing writer</b> 1 of" in page
    # Nothing is known of its past, and nothing is said of that.
    assert page.count("A slot was free at each look") == page.count('the last ten minutes"') == 2
    past = as_text.partition("no slot was free")[2]
    assert [line.split()[0] for line in past.splitlines()[1:]] == ["writer", "reader"]


@on_sqlite
@pytest.mark.gen_test
async def test_the_server_shows_other_databases_too(
    settings: Settings, database: Database, serve: Serve, tmp_path: Any
):
    """Those that `make_app` is given; here while nothing works at them."""
    billing = Database(DatabaseSettings(url=f"sqlite:///{tmp_path / 'billing.db'}"))
    ops = Ops(settings)
    application = make_app(settings, database, ops, databases={"billing": billing}, routes=[])
    client = serve(application)
    await ops.start(application, database, None)  # type: ignore[arg-type]  # it is asked for nothing here

    live = (await client.get("/-/live.json")).json()

    await ops.stop()
    await billing.close()
    assert [*live["pools"]] == ["writer", "reader", "billing writer", "billing reader"]


@pytest.mark.gen_test
async def test_a_database_in_memory_has_one_pool(serve: Serve):
    """Its reader is a view of the writer."""
    database = Database(DatabaseSettings(url="sqlite://"))
    client = served(serve, database)
    await client.get("/reads", headers={"X-Request-Id": "abc.1"})

    live = await client.get("/-/live.json")
    request = await kept(client, "abc.1")
    await database.close()

    assert [*live.json()["pools"]] == ["writer"]
    assert sql_of(request) == ["SELECT 1 AS one"]


@on_sqlite
@pytest.mark.gen_test
async def test_a_unit_that_waits_for_another_databases_file_is_held_up_by_none_of_this_one(
    database: Database, serve: Serve, tmp_path: Any
):
    """A write here is under way meanwhile, and has nothing to do with it."""
    path = tmp_path / "billing.db"
    billing = Database(DatabaseSettings(url=f"sqlite:///{path}"))
    billing.create_all(MetaData())
    client = served(serve, database, databases={"billing": billing})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        async with database.unit_of_work(label="here") as here:
            await here.run(select_one, here.session)
            waiting = asyncio.create_task(write(billing))
            live = await live_when(client, lambda live: [u for u in live["units"] if u["kind"] == "blocked"])
        stranger.execute("ROLLBACK")
    await waiting
    await billing.close()

    found = {unit["name"]: (unit["held_by"], unit["strangers"]) for unit in live["units"]}
    assert found == {"here": ([], []), "there": ([], ["another program, which is not of this server"])}


# -- what an application has of its own


@on_sqlite
@pytest.mark.gen_test
async def test_an_open_page_fills_no_log_and_other_access_lines_are_tornados(
    database: Database, serve: Serve, caplog: pytest.LogCaptureFixture
):
    """The application has no ``log_function``."""
    client = served(serve, database)
    caplog.set_level("INFO", "tornado.access")

    await client.get("/-/live")
    await client.get("/reads")
    await client.get("/-/live.json")

    assert [re.sub(r"[0-9.]+ms", "Nms", record.getMessage()) for record in caplog.records] == [
        "200 GET /reads (127.0.0.1) Nms"
    ]


@on_sqlite
@pytest.mark.gen_test
async def test_the_applications_own_log_is_called_as_before(database: Database, serve: Serve):
    """A ``log_function``, or the method that a subclass has in its place."""
    told: list[str] = []

    class Own(Application):
        def log_request(self, handler: RequestHandler) -> None:
            told.append(f"method {handler.request.path}")

    def log_function(handler: RequestHandler) -> None:
        told.append(f"function {handler.request.path}")

    first = served(serve, database, log_function=log_function)
    second = serve(Own([("/reads", Reads), *pages_for(database)], database=database))
    await first.get("/reads")
    await second.get("/reads", headers={"X-Request-Id": "abc.1"})

    assert told == ["function /reads", "method /reads"]
    assert (await kept(second, "abc.1"))["status"] == 200


@on_sqlite
@pytest.mark.gen_test
async def test_a_request_without_a_session_is_kept_where_it_fails(
    database: Database, serve: Serve, expect_log: ExpectLog
):
    """A plain handler of Tornado's, and a path that is not there."""

    class Fails(RequestHandler):
        def get(self) -> None:
            raise ZeroDivisionError

    client = served(serve, database, ("/fails", Fails))
    with expect_log("tornado.application", "ZeroDivisionError"), expect_log("tornado.access", "^500"):
        await client.get("/fails", headers={"X-Request-Id": "abc.1"})
    with expect_log("tornado.access", "^404"):
        await client.get("/nothing", headers={"X-Request-Id": "abc.2"})

    assert (await kept(client, "abc.1"))["reasons"] == ["failed"]
    assert (await kept(client, "abc.2"))["status"] == 404


class Notes(Observer):
    """An application's own, which writes its note on each unit of work."""

    def __init__(self) -> None:
        self.ended_units: list[object] = []
        self.checked_in_s: list[float] = []

    def opened(self, unit: ObservedUnit) -> None:
        unit.observed = "mine"

    def ended(self, unit: ObservedUnit) -> None:
        self.ended_units.append(unit.observed)

    def checked_in(self, pool: str, used_s: float) -> None:
        self.checked_in_s.append(used_s)


@on_sqlite
@pytest.mark.gen_test
async def test_an_observer_that_the_database_has_already_is_called_as_before(
    database_settings: DatabaseSettings, serve: Serve
):
    """And its note on a unit of work is its own."""
    observer, another = Notes(), Notes()
    database = Database(database_settings, observer)
    database.observe(another)
    client = served(serve, database)

    await client.get("/reads")
    live = await live_when(client, lambda live: live["counts"]["read"])
    await database.close()

    for each in (observer, another):
        assert each.ended_units == ["mine"]
        assert len(each.checked_in_s) == 1
    assert live["counts"]["read"] == 1


class Loops(ApiHandler):
    """A SELECT for one row at a time."""

    async def get(self) -> None:
        for number in range(5):
            await self.run(self.session.execute, text("SELECT :number"), {"number": str(number)})


@on_sqlite
@pytest.mark.parametrize(
    ("options", "records", "logs"),
    [
        ({}, True, True),
        ({"record": False}, False, False),
        ({"token": "secret"}, False, False),
        ({"token": "secret", "record": True}, True, False),
    ],
)
@pytest.mark.gen_test
async def test_where_strangers_may_come_nothing_is_recorded_unless_it_is_asked_for_and_no_loop_is_logged(
    options: dict[str, Any],
    records: bool,
    logs: bool,
    database: Database,
    serve: Serve,
    expect_log: ExpectLog,
):
    """A token is for an application that others than its developer use. Any other warning fails this test."""
    pages = pages_for(database, **options)
    client = serve(Application([("/loops", Loops), *pages], database=database))
    with contextlib.ExitStack() as logged:
        if logs:
            logged.enter_context(expect_log("onfinish.requests", "5 times the same SELECT"))
        await client.get("/loops")

    lists = (await client.get("/-/requests.json", headers={"Authorization": "Bearer secret"})).json()

    assert lists["recording"] is records
    assert [each["findings"][0]["told"] for each in lists["last"]] == ["5 times the same SELECT"] * records


# -- what it costs


def replaced(database: Database) -> dict[str, object]:
    """What a recorder replaces: on the dialects and on the registry."""
    found = {f"registry {name}": value for name, value in vars(database.registry).items() if callable(value)}
    for endpoint in (database.writer, database.reader):
        for engine in (endpoint.engine, endpoint.scopes):
            methods = ("do_execute", "do_executemany", "do_execute_no_params", "do_begin", "do_commit")
            found |= {f"{id(engine)} {name}": vars(engine.dialect).get(name) for name in methods}
    return found


@pytest.mark.gen_test
async def test_where_nothing_is_recorded_a_statement_goes_through_the_same_function_objects(
    database: Database, serve: Serve, expect_log: ExpectLog
):
    """And what went badly is kept all the same, without its statements; the page says how to have them."""

    class Fails(ApiHandler):
        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))
            raise ZeroDivisionError

    before = replaced(database)
    pages = pages_for(database, record=False)
    client = serve(Application([("/reads", Reads), ("/fails", Fails), *pages], database=database))
    await client.get("/reads", headers={"X-Request-Id": "abc.1"})
    with expect_log("onfinish.handlers", "ZeroDivisionError"), expect_log("tornado.access", "^500"):
        await client.get("/fails", headers={"X-Request-Id": "abc.2"})
    lists = (await client.get("/-/requests.json")).json()
    page = (await client.get("/-/requests/abc.2", headers=BROWSER)).body.decode()

    assert replaced(database) == before
    assert lists["recording"] is False
    assert [each["request_id"] for each in lists["worst"]] == ["abc.2"]
    assert lists["last"] == []
    assert "were not recorded: <code>pages_for(…, record=True)</code>" in page


@pytest.mark.gen_test
async def test_when_the_database_is_closed_nothing_of_the_pages_is_left(
    database_settings: DatabaseSettings, serve: Serve
):
    """The recorder is gone, and no timer and no connection of theirs is; several pages end as well as one."""
    database = Database(database_settings)
    before = replaced(database)
    clients = [served(serve, database) for _ in range(2)]
    during = replaced(database)
    for client in clients:
        await client.get("/reads")
        assert (await client.get("/-/live")).code == 200

    await database.close()

    assert during != before
    assert replaced(database) == before
    assert database.closing == []
