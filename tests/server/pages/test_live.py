"""``/-/live``: which request does what at which line, and who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from tornado.web import Application

from conf import Settings
from handlers import ApiHandler
from tests.fixtures.browser import Page
from tests.fixtures.databases import RawSql
from tests.fixtures.pgbouncer import Bouncer
from tests.fixtures.process import StartServer, send
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp
from tests.fixtures.waiting import wait_until
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER, each_look, live_when
from tests.server.pages.looks import faults_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


async def units_when(seen: Seen, condition: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
    """The units of ``/-/live.json`` as soon as they fulfil a condition."""
    live = await live_when(seen.client, lambda live: condition(live["units"]))
    return list(live["units"])


def is_idle(units: list[dict[str, Any]]) -> bool:
    """Whether the one unit has done its SQL, and its handler awaits `go_on`, and no longer its SQL's end."""
    return (
        bool(units)
        and units[0]["headline"].startswith("idle in its transaction")
        and (units[0]["place"] or {}).get("text", "").startswith("await go_on.wait()")
    )


def client_that_holds(seen: Seen, serve: Serve, go_on: asyncio.Event, sql: str = "SELECT 1") -> Client:
    """A client whose POST to ``/hold`` sends SQL, and is in its transaction until the event."""

    class Holds(ApiHandler):
        async def post(self) -> None:
            await self.run(self.session.execute, text(sql))
            await go_on.wait()

    return serve(Application([("/hold", Holds)], database=seen.database))


@pytest.mark.every_driver
@pytest.mark.gen_test
async def test_a_transaction_that_is_idle_while_its_handler_awaits_is_shown_with_the_line(
    seen: Seen, serve: Serve
):
    """It holds its connection, and the line is the one at which the handler waits."""
    go_on = asyncio.Event()

    class Notifies(ApiHandler):
        async def post(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))
            await go_on.wait()  # a call to another service

    client = serve(Application([("/notify", Notifies)], database=seen.database))
    request = asyncio.create_task(client.post("/notify", headers={"X-Request-Id": "abc.1"}))
    [unit] = await units_when(seen, is_idle)
    page = (await seen.client.get("/-/live", headers=BROWSER)).body.decode()
    as_text = (await seen.client.get("/-/live.txt")).body.decode()
    go_on.set()

    assert (await request).code == 200
    assert unit["headline"].startswith("idle in its transaction")
    assert unit["request_id"] == "abc.1"
    assert unit["sql"] == "SELECT 1"
    assert unit["statements"] == 1
    assert unit["place"]["text"] == "await go_on.wait()  # a call to another service"
    assert unit["place"]["file"].endswith("test_live.py")
    for shown in (page, as_text):
        assert "idle in its transaction" in shown
        assert "await go_on.wait()" in shown
        assert "abc.1" in shown
    assert await units_when(seen, lambda units: not units) == []


def slow_query(session: Any, seconds: float) -> None:
    """Takes some time in the database."""
    session.execute(text(f"SELECT pg_sleep({seconds})"))  # the line that is looked for


@pytest.mark.every_driver
@on_postgresql
@pytest.mark.gen_test
async def test_sql_that_runs_is_shown_with_the_line_that_sent_it(seen: Seen, serve: Serve):
    """In a thread as in a greenlet."""

    class Slow(ApiHandler):
        async def post(self) -> None:
            await self.run(slow_query, self.session, 1.0)

    client = serve(Application([("/slow", Slow)], database=seen.database))
    request = asyncio.create_task(client.post("/slow"))
    [unit] = await units_when(seen, lambda units: units and units[0]["sql"].startswith("SELECT pg_sleep"))

    assert unit["headline"] == "runs SQL"
    assert unit["place"]["function"] == "slow_query"
    assert unit["place"]["text"].endswith("# the line that is looked for")
    assert (await request).code == 200


@pytest.mark.gen_test
async def test_python_that_holds_a_transaction_is_told_from_sql_and_a_job_is_shown_too(seen: Seen):
    """A scope in a thread of its own: no request, but a line."""
    entered, leave = threading.Event(), threading.Event()

    def job() -> None:
        with seen.database.session_scope(label="nightly job") as session:
            session.execute(text("SELECT 1"))
            entered.set()
            leave.wait(10)  # the job's line

    working = asyncio.create_task(asyncio.to_thread(job))
    await asyncio.to_thread(entered.wait, 10)
    [unit] = await units_when(seen, lambda units: units and units[0]["place"])
    leave.set()
    await working

    assert unit["name"] == "nightly job"
    assert unit["headline"] == "runs Python, its transaction open"
    assert unit["place"]["text"] == "leave.wait(10)  # the job's line"


def rename_shelf(session: Any, name: str) -> None:
    """Locks the row until the end of the transaction."""
    session.execute(text("UPDATE shelves SET name = :name"), {"name": name})


async def holder_and_waiter(
    seen: Seen, serve: Serve, *, kinds: Sequence[str] = ("holds", "blocked")
) -> list[dict[str, Any]]:
    """The two units of a request that holds a row while its handler awaits, and of one that waits for it."""
    await seen.client.post("/shelves", {"name": "Store"})
    go_on = asyncio.Event()

    class Holds(ApiHandler):
        async def post(self) -> None:
            await self.run(rename_shelf, self.session, "First")
            await go_on.wait()

    class Waits(ApiHandler):
        async def post(self) -> None:
            await self.run(rename_shelf, self.session, "Second")

    client = serve(Application([("/holds", Holds), ("/waits", Waits)], database=seen.database))
    holds = asyncio.create_task(client.post("/holds", headers={"X-Request-Id": "holder.1"}))
    await units_when(seen, is_idle)
    waits = asyncio.create_task(client.post("/waits", headers={"X-Request-Id": "waiter.1"}))
    units = await units_when(
        seen, lambda units: [each["kind"] for each in units] == [*kinds] and units[1]["sql"]
    )
    go_on.set()
    assert [answer.code for answer in await asyncio.gather(holds, waits)] == [200, 200]
    return units


@pytest.mark.every_driver
@on_postgresql
@pytest.mark.gen_test
async def test_a_lock_is_mapped_to_the_request_that_holds_it(seen: Seen, serve: Serve):
    """Holder first, with how many wait, since when it is idle, and its line; the waiter names it."""
    holder, waiter = await holder_and_waiter(seen, serve)

    assert re.fullmatch(
        r"holds a lock that 1 other waits for · idle in its transaction for [0-9.]+ s", holder["headline"]
    )
    assert holder["place"]["text"] == "await go_on.wait()"
    assert waiter["holders"] == ["POST Holds holder.1"]
    assert waiter["place"]["function"] == "rename_shelf"


@pytest.mark.debian
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.gen_test(timeout=120)
async def test_a_lock_is_mapped_to_the_request_that_holds_it_on_mariadb(seen: Seen, serve: Serve):
    holder, waiter = await holder_and_waiter(seen, serve)

    assert holder["headline"].startswith("holds a lock that 1 other waits for · idle in its transaction")
    assert waiter["holders"] == ["POST Holds holder.1"]


@pytest.mark.every_driver
@on_postgresql
@pytest.mark.gen_test
async def test_a_lock_of_a_stranger_is_named_with_what_the_stranger_calls_itself(seen: Seen, sql: RawSql):
    """Its application, user and state; what it calls itself is text on the page."""
    created = (await seen.client.post("/shelves", {"name": "Store"})).json()
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT set_config('application_name', 'pgAdmin <b>4', true)")
        cursor.execute(f"UPDATE shelves SET name = 'Mine' WHERE id = {created['id']}")
        path = f"/shelves/{created['id']}"
        first = asyncio.create_task(
            seen.client.patch(path, {"name": "First"}, headers={"X-Request-Id": "first.1"})
        )
        [unit] = await units_when(seen, lambda units: [each for each in units if each["kind"] == "blocked"])
        page = (await seen.client.get("/-/live", headers=BROWSER)).body.decode()
        cursor.execute("ROLLBACK")

    assert (await first).code == 200
    assert unit["name"] == "PATCH /shelves/{shelf_id}"
    assert unit["headline"].startswith("waits for a lock · ")
    assert "until its deadline" in unit["headline"]
    [stranger] = unit["strangers"]
    assert "pgAdmin <b>4" in stranger
    assert "idle in transaction" in stranger
    assert "not of this server" in stranger
    assert "pgAdmin &lt;b&gt;4" in page
    assert "<b>4" not in page


@pytest.mark.debian
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.gen_test(timeout=120)
async def test_a_lock_of_a_stranger_is_named_on_mariadb(seen: Seen, sql: RawSql):
    """By what the server knows of it: its session, user and state."""
    created = (await seen.client.post("/shelves", {"name": "Store"})).json()
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE shelves SET name = 'Mine' WHERE id = {created['id']}")
        waits = asyncio.create_task(seen.client.patch(f"/shelves/{created['id']}", {"name": "First"}))
        [unit] = await units_when(seen, lambda units: [each for each in units if each["kind"] == "blocked"])
        cursor.execute("ROLLBACK")

    assert (await waits).code == 200
    assert unit["name"] == "PATCH /shelves/{shelf_id}"
    assert unit["headline"].startswith("waits for a lock")
    [stranger] = unit["strangers"]
    assert f"session {connection.thread_id()}, user onfinish" in stranger
    assert "idle in transaction" in stranger
    assert "not of this server" in stranger


@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_holder_and_waiters_of_two_processes_are_named_and_forgotten(
    database_url: str, start_server: StartServer, sql: RawSql
):
    """Whichever process answers: the first PATCH has the row and waits for a stranger, the others for it."""
    sql("INSERT INTO shelves (name) VALUES ('Store')")
    sql(
        "CREATE FUNCTION pass_the_gate() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$"
    )
    sql("CREATE TRIGGER gate AFTER UPDATE ON shelves FOR EACH ROW EXECUTE FUNCTION pass_the_gate()")
    server = start_server("--processes", "2", "--grace-s", "0", url=database_url)

    seen: list[dict[str, Any]] = []

    def all_wait() -> bool:
        # Of one answer: each process asks the database once a second at most.
        seen[:] = server.request("GET", "/-/live.json").body["units"]
        return [unit["kind"] for unit in seen] == ["blocked"] * 6

    with contextlib.ExitStack() as opened:
        lock = opened.enter_context(sql.connect())
        cursor = opened.enter_context(contextlib.closing(lock.cursor()))
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_advisory_xact_lock(7)")
        for _ in range(6):
            connection = opened.enter_context(contextlib.closing(server.connect()))
            send(connection, "PATCH", "/shelves/1", {"name": "Other"})
        assert wait_until(all_wait, timeout_s=3)
        cursor.execute("ROLLBACK")

    holder = seen[0]
    assert holder["blocks"] == 5
    assert holder["headline"].startswith("holds a lock that 5 others wait for · waits for a lock")
    [stranger] = holder["strangers"]
    assert "idle in transaction" in stranger
    assert {unit["process"] for unit in seen} == {0, 1}
    by_key = {unit["key"]: unit for unit in seen}
    for waiter in seen[1:]:
        assert waiter["place"]["function"] == "update_shelf"
        row = waiter
        while row is not holder:  # PostgreSQL queues them: each waits for the one before it
            row = by_key[row["held_by"][0]]
        assert waiter["holders"] == [f"PATCH /shelves/{{shelf_id}} {holder['request_id']}"]
        assert "holds" not in waiter["headline"]
    assert wait_until(lambda: server.request("GET", "/-/live.json").body["units"] == [], timeout_s=3)


@pytest.mark.gen_test
async def test_a_thousand_units_take_a_tenth_of_a_second(seen: Seen, serve: Serve):
    """The oldest 200 are shown, and the others counted."""
    units = [seen.database.unit_of_work(label=f"unit {number}") for number in range(1000)]
    await seen.client.get("/-/live")
    times = []
    for _ in range(5):
        began = time.monotonic()
        answer = await seen.client.get("/-/live", headers=BROWSER)
        times.append(time.monotonic() - began)
    body = (await seen.client.get("/-/live.json")).json()
    for unit in units:
        await unit.settle(keep=False)

    assert answer.code == 200
    assert body["open"] == 1000
    assert len(body["units"]) == 200
    assert min(times) < 0.1


@pytest.mark.gen_test
async def test_callers_that_wait_for_a_slot_are_numbered(seen: Seen, serve: Serve):
    """In their order, with what they wait for; the pool is full, and the page says since when."""
    go_on = asyncio.Event()
    size = seen.database.writer.limiter.size

    class Holds(ApiHandler):
        async def post(self) -> None:
            await self.run(self.session.connection)
            await go_on.wait()

    client = serve(Application([("/hold", Holds)], database=seen.database))
    requests = [asyncio.create_task(client.post("/hold")) for _ in range(size + 2)]
    units = await units_when(seen, lambda units: len([u for u in units if u["kind"] == "waits"]) == 2)
    # A sample is taken each second.
    live = await live_when(seen.client, lambda live: 2 in live["pools"]["writer"]["history"]["waiting"])
    pool = live["pools"]["writer"]
    go_on.set()
    await asyncio.gather(*requests)

    headlines = [unit["headline"] for unit in units if unit["kind"] == "waits"]
    assert "number 1 in the queue" in headlines[0]
    assert "number 2 in the queue" in headlines[1]
    assert (pool["taken"], pool["size"], pool["waiting"]) == (size, size, 2)
    [full] = pool["full"]
    assert (full["process"], full["waiting"]) == (0, 2)
    assert full["began_s"] <= full["ended_s"] <= time.time()


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_lock_of_a_file_is_mapped_across_processes(
    database_url: str, start_server: StartServer, sql: RawSql
):
    """Another program that holds it is told as such."""
    server = start_server("--processes", "2", "--grace-s", "0", url=database_url)
    with sql.connect() as lock, contextlib.closing(server.connect()) as waiting:
        lock.execute("BEGIN IMMEDIATE")
        send(waiting, "POST", "/shelves", {"name": "Store"})

        def blocked() -> list[dict[str, Any]]:
            units = server.request("GET", "/-/live.json").body["units"]
            return [unit for unit in units if unit["kind"] == "blocked"]

        assert wait_until(lambda: bool(blocked()), timeout_s=5)
        [unit] = blocked()
        lock.execute("ROLLBACK")

    assert unit["headline"].startswith("waits for the file's write lock")
    assert unit["strangers"] == ["another program, which is not of this server"]


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_process_that_is_stopped_is_shown_within_a_second_and_a_half(
    database_url: str, start_server: StartServer
):
    server = start_server("--processes", "2", "--grace-s", "0", url=database_url)
    pids = [each["pid"] for each in server.request("GET", "/stats").body["processes"]]
    os.kill(pids[0], signal.SIGSTOP)
    try:
        began = time.monotonic()
        body = server.request("GET", "/-/live.json").body
        took_s = time.monotonic() - began
    finally:
        os.kill(pids[0], signal.SIGCONT)

    assert body["stuck_processes"] == [0]
    assert took_s < 1.5


@on_postgresql
@pytest.mark.gen_test
async def test_a_database_that_hangs_is_said_in_time(seen: Seen, serve: Serve, sql: RawSql):
    """Its question waits for a lock on the catalogue: the page comes without locks, and says why."""
    go_on = asyncio.Event()
    client = client_that_holds(seen, serve, go_on)
    request = asyncio.create_task(client.post("/hold"))
    await units_when(seen, is_idle)
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(1.1)  # the answer of a second ago is kept
        began = time.monotonic()
        body = (await seen.client.get("/-/live.json")).json()
        took_s = time.monotonic() - began
        cursor.execute("ROLLBACK")
    go_on.set()
    await request

    assert took_s < 1.5
    assert "the database" in body["why_no_locks"]
    assert len(body["units"]) == 1


@on_sqlite
@pytest.mark.debian
@each_look
@pytest.mark.gen_test(timeout=60)
async def test_it_looks_well_in_a_browser_and_follows_what_happens(
    width: int, scheme: str, seen: Seen, serve: Serve, page: Page
):
    """A row comes and goes without a reload."""
    go_on = asyncio.Event()
    client = client_that_holds(seen, serve, go_on, "SELECT '<i>' || 1")
    port = seen.client.port
    await page.open(f"http://127.0.0.1:{port}/-/live", width=width, scheme=scheme)
    rows = "document.querySelectorAll('.unit').length"
    assert await page.evaluate(rows) == 0
    requests = [asyncio.create_task(client.post("/hold")) for _ in range(2)]
    for _ in range(100):
        if await page.evaluate(rows) == 2:
            break
        await asyncio.sleep(0.05)

    assert await page.evaluate(rows) == 2
    assert "SELECT '<i>' || 1" in await page.evaluate("document.querySelector('#units').innerText")
    assert await faults_of(page, width=width, port=port) == []
    go_on.set()
    await asyncio.gather(*requests)
    for _ in range(100):
        if await page.evaluate(rows) == 0:
            break
        await asyncio.sleep(0.05)
    assert await page.evaluate(rows) == 0


@on_postgresql
@pytest.mark.debian
@pytest.mark.gen_test(timeout=60)
async def test_behind_pgbouncer_the_page_says_why_no_locks_are_shown_and_has_all_the_rest(
    settings: Settings, database_url: str, bouncer: Bouncer, make_application: MakeApp, serve: Serve
):
    """In mode transaction a connection's id is not that of the session that runs its statements."""
    through = settings.database.model_copy(
        update={"url": SecretStr(bouncer.url_of(database_url)), "pooler": "pgbouncer"}
    )
    seen = Seen(settings.model_copy(update={"database": through}), make_application)
    await seen.start()
    try:
        units = await holder_and_waiter(seen, serve, kinds=["idle", "runs"])
        body = (await seen.client.get("/-/live.json")).json()
        page = (await seen.client.get("/-/live", headers=BROWSER)).body.decode()
        as_text = (await seen.client.get("/-/live.txt")).body.decode()
    finally:
        await seen.stop()

    holder, waiter = units
    assert holder["headline"].startswith("idle in its transaction")
    assert holder["place"]["text"] == "await go_on.wait()"
    assert (waiter["headline"], waiter["holders"]) == ("runs SQL", [])
    assert waiter["place"]["function"] == "rename_shelf"
    assert body["why_no_locks"].startswith("behind PgBouncer a connection has an id of PgBouncer's")
    assert f"Who waits for whose lock is not shown: {escape(body['why_no_locks'])}." in page
    assert f"locks: {body['why_no_locks']}" in as_text


POLLS = "performance.getEntriesByType('resource').filter(each => each.name.endsWith('/-/live')).length"


@on_sqlite
@pytest.mark.debian
@each_look
@pytest.mark.gen_test(timeout=60)
async def test_without_scripts_it_is_whole_and_loads_itself_again(
    width: int, scheme: str, seen: Seen, serve: Serve, page: Page
):
    """What only scripts could do is not there."""
    go_on = asyncio.Event()
    client = client_that_holds(seen, serve, go_on)
    request = asyncio.create_task(client.post("/hold", headers={"X-Request-Id": "abc.1"}))
    await units_when(seen, is_idle)
    port = seen.client.port
    await page.open(f"http://127.0.0.1:{port}/-/live", width=width, scheme=scheme, scripts=False)

    shown = await page.evaluate("document.body.innerText")
    assert all(
        each in shown for each in ("idle in its transaction", "await go_on.wait()", "abc.1", "as text")
    )
    assert "Pause" not in shown
    assert "every 2 s" not in shown
    assert await faults_of(page, width=width, port=port) == []
    go_on.set()
    await request
    for _ in range(200):
        now = await page.evaluate("document.body?.innerText ?? ''")  # not there yet while it loads
        if "Open units of work: 0" in now:
            break
        await asyncio.sleep(0.05)
    assert "Open units of work: 0" in now


@on_sqlite
@pytest.mark.debian
@pytest.mark.gen_test(timeout=60)
async def test_a_tab_that_is_hidden_does_not_poll_and_one_that_is_shown_again_does_at_once(
    seen: Seen, page: Page
):
    await page.open(f"http://127.0.0.1:{seen.client.port}/-/live")
    window = (await page.call("Browser.getWindowForTarget"))["windowId"]

    async def polls_in(seconds: float, state: str) -> int:
        await page.call("Browser.setWindowBounds", windowId=window, bounds={"windowState": state})
        await asyncio.sleep(0.2)
        before = await page.evaluate(POLLS)
        await asyncio.sleep(seconds)
        return int(await page.evaluate(POLLS)) - int(before)

    while_visible = await polls_in(4.5, "normal")
    hidden = await polls_in(0.0, "minimized")
    assert await page.evaluate("document.visibilityState") == "hidden"
    while_hidden = await polls_in(4.5, "minimized")
    before = await page.evaluate(POLLS)
    await polls_in(0.3, "normal")

    assert while_visible >= 2
    assert hidden == while_hidden == 0
    assert await page.evaluate(POLLS) == before + 1


@on_sqlite
@pytest.mark.debian
@pytest.mark.slow
@pytest.mark.gen_test(timeout=300)
async def test_a_tab_that_stays_open_grows_neither_the_browser_nor_the_server(seen: Seen, page: Page):
    """As many looks as in half an hour, rows that come and go with each; counted in objects, not in time."""
    await page.open(f"http://127.0.0.1:{seen.client.port}/-/live")
    wait_for_look = """new Promise(resolve => {
        const before = performance.getEntriesByType('resource').length;
        performance.clearResourceTimings();
        const pause = document.getElementById('pause');
        pause.click(); pause.click();  // goes on: asks at once
        const look = () => performance.getEntriesByType('resource').length ? resolve(1) : setTimeout(look, 2);
        look();
    })"""

    async def look(times: int) -> None:
        for number in range(times):
            units = [seen.database.unit_of_work(label=f"unit {number} {each}") for each in range(number % 7)]
            await page.evaluate(wait_for_look)
            for unit in units:
                await unit.settle(keep=False)

    async def held() -> dict[str, int]:
        await page.call("HeapProfiler.collectGarbage")
        gc.collect()
        counters = await page.call("Memory.getDOMCounters")
        return {
            **{name: counters[name] for name in ("documents", "nodes", "jsEventListeners")},
            "objects of the server": len(gc.get_objects()),
        }

    await look(100)
    before = await held()
    await look(900)
    after = await held()

    grown = {name: after[name] - before[name] for name in before if after[name] - before[name] > 450}
    assert grown == {}, (before, after)


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"Host": "evil.example"}, 404), ({"Via": "1.1 proxy"}, 404)]
)
@pytest.mark.parametrize("form", ["", ".json", ".txt"])
@pytest.mark.gen_test
async def test_it_is_for_operators(headers: dict[str, str], status: int, form: str, seen: Seen):
    assert (await seen.client.get(f"/-/live{form}", headers=headers)).code == status
