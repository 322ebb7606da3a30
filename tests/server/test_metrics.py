"""``/metrics``: what is counted, and where it is served."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import string
import subprocess
from multiprocessing import get_context
from typing import Any

import pytest
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from conf import OpsSettings, load_settings
from db import Database
from db.errors import PoolTimeout
from handlers import ApiHandler
from server.monitoring.exposition import Exposition
from server.monitoring.metrics import FAMILIES, REQUESTS, Metrics
from server.monitoring.ops import Ops
from server.monitoring.route_names import RouteNames
from server.monitoring.shared_counters import SharedCounters
from tests.fixtures.databases import RawSql
from tests.fixtures.process import StartServer
from tests.fixtures.server import Serve
from tests.fixtures.service import create_shelves
from tests.server.conftest import Seen, numbers_of
from tests.service.handlers import routes

BOOK = {"title": "a book"}
COUNT = "http_server_request_duration_seconds_count"
CONNECTIONS = "db_client_connection_count"
UNITS = "onfinish_units_of_work_total"

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.mark.gen_test
async def test_requests_are_counted_by_method_route_and_status(seen: Seen):
    """The route is the template, whatever id was asked for; what has no route has none."""
    created = (await seen.client.post("/books", BOOK)).json()
    for path in (f"/books/{created['id']}", f"/books/{'0' * 32}", f"/books/{'1' * 32}", "/nowhere"):
        await seen.client.get(path)
    await seen.client.post(f"/books/{created['id']}/lent")
    numbers = seen.numbers()

    counts = {key[1:]: number for key, number in numbers.items() if key[0] == COUNT}
    assert counts == {
        ("POST", "201", "/books"): 1,
        ("GET", "200", "/books/{book_id}"): 1,
        ("GET", "404", "/books/{book_id}"): 2,
        ("POST", "200", "/books/{book_id}/lent"): 1,
        ("GET", "404", ""): 1,
    }
    took_s = numbers["http_server_request_duration_seconds_sum", "POST", "201", "/books"]
    assert 0 < took_s < 10


@pytest.mark.debian
@pytest.mark.gen_test
async def test_promtool_has_no_complaint(seen: Seen):
    """Prometheus' own linter: names, units, types and help of every family, each with a series."""
    await seen.client.post("/books", BOOK)
    await seen.client.get("/nowhere")
    seen.ops.metrics.retries("deadlock")
    seen.ops.metrics.marker_asked("committed")
    seen.ops.metrics.behind(0.5)
    text = seen.ops.exposition.text()
    assert all(f"\n{family.name}" in text.decode() for family in FAMILIES)

    check = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told = await check.communicate(text)

    assert (check.returncode, told) == (0, (b"", b""))


@on_sqlite
@pytest.mark.gen_test
async def test_a_thousand_random_paths_and_methods_add_no_series(seen: Seen):
    """What a client makes up is no label: one series for all of it."""
    made_up = random.Random(7)

    def word() -> str:
        return "".join(made_up.choices(string.ascii_letters, k=12))

    await seen.client.get("/nowhere")
    await seen.client.request(word().upper(), "/nowhere")
    before = len(seen.numbers())
    for _ in range(10):
        paths = [f"/{word()}/{word()}?{word()}=1" for _ in range(99)]
        await asyncio.gather(*(seen.client.get(path) for path in paths))
        await seen.client.request(word().upper(), f"/{word()}")
    numbers = seen.numbers()

    assert len(numbers) == before
    assert numbers[COUNT, "GET", "404", ""] == 991
    assert numbers[COUNT, "_OTHER", "404", ""] == 11


@on_sqlite
@pytest.mark.gen_test
async def test_what_is_refused_before_it_has_a_handler_is_counted(seen: Seen):
    """Headers without end never reach one; what they were to say was never read."""
    answer = await seen.client.get("/shelves", headers={"X-Long": "x" * 40_000})

    assert answer.code == 431
    assert seen.numbers()[COUNT, "_OTHER", "431", ""] == 1


@pytest.mark.gen_test
async def test_connections_are_counted_as_they_are_used_and_given_back(seen: Seen, backend):
    """Used while a unit of work has one, idle afterwards, none once the pool is emptied."""
    used, idle = (CONNECTIONS, "reader", "used"), (CONNECTIONS, "reader", "idle")
    assert (seen.numbers()[used], seen.numbers()[idle]) == (0, 0)
    async with (
        seen.database.unit_of_work(read_only=True) as one,
        seen.database.unit_of_work(read_only=True) as other,
    ):
        for unit in (one, other):
            task = asyncio.create_task(unit.run(_connect, unit.session))
            await task
        numbers = seen.numbers()
        assert (numbers[used], numbers[idle]) == (2, 0)
    numbers = seen.numbers()
    assert (numbers[used], numbers[idle]) == (0, 2)
    assert numbers["db_client_connection_use_time_seconds_count", "reader"] == 2
    assert numbers["db_client_connection_wait_time_seconds_count", "reader"] == 2
    assert numbers["db_client_connection_max", "reader"] == 10
    assert numbers["db_client_connection_max", "writer"] == (1 if backend == "sqlite" else 10)

    await seen.database.close()

    assert (seen.numbers()[used], seen.numbers()[idle]) == (0, 0)


def _connect(session: Any) -> None:
    session.connection()


@on_postgresql
@pytest.mark.gen_test
async def test_a_connection_that_is_lost_in_use_is_not_counted_for_ever(seen: Seen, sql):
    """Killed while it is used, and killed while it rests: the numbers are those of the pool."""
    used, idle = (CONNECTIONS, "writer", "used"), (CONNECTIONS, "writer", "idle")
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'onfinish'"
    for _ in range(3):
        with pytest.raises(Exception, match="connection"):
            async with seen.database.unit_of_work() as unit:
                await unit.run(_connect, unit.session)
                sql(kill)
                await unit.run(lambda session: session.connection().exec_driver_sql("SELECT 1"), unit.session)
        assert seen.numbers()[used] == 0
        assert (await seen.client.post("/shelves", {"name": os.urandom(4).hex()})).code == 201
        sql(kill)

    pool: Any = seen.database.writer.engine.pool
    assert seen.numbers()[idle] == pool.checkedin()
    assert seen.numbers()[used] == pool.checkedout() == 0


@on_postgresql
@pytest.mark.gen_test
async def test_waits_for_a_slot_are_counted_and_those_in_vain(seen: Seen):
    """Pending while a unit waits; a time-out where none came free, and a wait where one did."""
    pending = ("db_client_connection_pending_requests", "writer")
    limiter = seen.database.writer.limiter
    held = [await limiter.acquire(1) for _ in range(limiter.size)]

    waiting = asyncio.create_task(limiter.acquire(5))
    in_vain = asyncio.create_task(limiter.acquire(0.05))
    await asyncio.sleep(0)
    assert seen.numbers()[pending] == 2
    with pytest.raises(PoolTimeout):
        await in_vain
    assert seen.numbers()[pending] == 1
    held.pop().release()
    held.append(await waiting)

    numbers = seen.numbers()
    assert numbers[pending] == 0
    assert numbers["db_client_connection_timeouts_total", "writer"] == 1
    assert numbers["db_client_connection_wait_time_seconds_count", "writer"] == limiter.size + 1
    assert numbers["db_client_connection_wait_time_seconds_sum", "writer"] >= 0.05
    assert limiter.refused == 1
    held.clear()


@pytest.mark.gen_test
async def test_units_of_work_are_counted_by_what_became_of_them(seen: Seen):
    """Each once: requests kept, undone and read, and what scripts and jobs do."""
    assert (await seen.client.post("/shelves", {"name": "Store"})).code == 201
    assert (await seen.client.post("/shelves", {"name": "Store"})).code == 409
    assert (await seen.client.get("/shelves")).code == 200

    def job() -> None:
        with seen.database.session_scope() as session:
            session.connection()

    await asyncio.to_thread(job)

    units = {key[1:]: number for key, number in seen.numbers().items() if key[0] == UNITS}
    assert units == {("kept", "writer"): 2, ("undone", "writer"): 1, ("read", "reader"): 1}


@on_postgresql
@pytest.mark.gen_test
async def test_a_request_that_runs_again_is_counted_with_its_reason(seen: Seen, serve: Serve):
    """As an own application would use it: the counts come through the database alone."""

    class ConflictHandler(ApiHandler):
        attempts = 0

        async def post(self) -> None:
            type(self).attempts += 1
            if self.attempts < 3:
                await self.run(_serialization_failure, self.session)
            self.write_json({})

    client = serve(Application([("/", ConflictHandler)], database=seen.database))

    assert (await client.post("/")).code == 200

    assert seen.numbers()["onfinish_runs_again_total", "serialization"] == 2


@on_sqlite
@pytest.mark.gen_test
async def test_a_commit_that_no_standby_has_is_counted(seen: Seen):
    seen.database.backend.observer.unreplicated()

    assert seen.numbers()["onfinish_commits_unreplicated_total",] == 1


@on_sqlite
@pytest.mark.gen_test
async def test_reads_with_a_token_are_counted_by_how_they_ended(seen: Seen):
    """And writes that a failover has lost."""
    observer = seen.database.observer
    for how in ("reader", "waited", "primary", "primary"):
        observer.read_after(how)
    observer.write_lost()

    numbers = seen.numbers()
    assert [numbers["onfinish_reads_after_write_total", how] for how in ("reader", "waited", "primary")] == [
        1,
        1,
        2,
    ]
    assert numbers["onfinish_writes_lost_total",] == 1


def _serialization_failure(session: Any) -> None:
    session.connection().exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$")


@on_sqlite
@pytest.mark.gen_test
async def test_the_page_is_what_prometheus_reads(seen: Seen):
    """Its content type, help and type for each metric, and counters and gauges that begin at 0."""
    answer = await seen.client.get("/metrics")

    assert answer.code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    numbers = numbers_of(answer.body)
    for family in FAMILIES:
        assert f"# HELP {family.name.removesuffix('_total')}".encode() in answer.body
    assert numbers["db_client_connection_timeouts_total", "writer"] == 0
    assert numbers["onfinish_leaks_total",] == 0
    assert numbers["onfinish_processes",] == 1
    assert numbers["process_open_fds",] > 3


# -- where it is served


@on_sqlite
@pytest.mark.gen_test
async def test_the_main_port_shows_it_to_loopback_alone(seen: Seen):
    """A request that a proxy passes on is a stranger's, whatever its header says."""
    for path in ("/metrics", "/stats"):
        assert (await seen.client.get(path)).code == 200
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via", "X-Forwarded-Proto"):
            answer = await seen.client.get(path, headers={header: "127.0.0.1"})
            assert answer.code == 404, header


@pytest.mark.parametrize(
    ("environment", "port", "shown"), [("production", None, 0), ("testing", 9999, 0), ("testing", None, 2)]
)
def test_the_main_port_has_it_where_that_is_safe_and_no_other_port_has(environment, port, shown):
    """In production only ``ops.port`` shows it; where that is set, nothing else does."""
    settings = load_settings(
        {"environment": environment, "database.url": "postgresql://h/d"}, environ={}
    ).model_copy(update={"ops": OpsSettings(port=port)})

    assert len(Ops(settings).routes) == shown


def test_the_port_for_it_is_on_loopback_and_has_nothing_else(start_server: StartServer, tmp_path):
    """``--ops-port 0``: the banner names it; the main port has none of it; the counts are of all requests."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    create_shelves(RawSql(url))
    server = start_server("--ops-port", "0", "--grace-s", "0", url=url)
    match = re.search(r"metrics +http://127\.0\.0\.1:(\d+)/metrics", server.out)
    assert match is not None
    assert server.request("GET", "/shelves").status == 200
    assert server.request("GET", "/metrics").status == 404
    assert server.request("GET", "/stats").status == 404
    assert server.request("GET", "/-/requests").status == 404

    paths = ("/metrics", "/stats", "/shelves", "/-/requests.json")
    page, stats, other, requests = (fetch(int(match[1]), path) for path in paths)

    assert numbers_of(page[1])[COUNT, "GET", "200", "/shelves"] == 1
    assert json.loads(stats[1])["processes"][0]["pid"] == server.pid
    assert other[0] == 404
    assert requests[0] == 200


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """GET over a connection of its own."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# -- the memory that processes share


def count(tally: SharedCounters, index: int, times: int) -> None:
    """What a process does in its slot."""
    metrics = Metrics(tally.slots[index])
    for _ in range(times):
        metrics.answered(method="GET", route=f"/{index}", status=200, took_s=0.001)
        metrics.answered(method="GET", route="/both", status=200, took_s=0.2)
        metrics.connected("writer")


def test_what_processes_count_is_added_up_and_outlives_them():
    """One is gone, another takes its slot: counts go on, and what was of the moment begins anew."""
    tally = SharedCounters(2)
    processes = get_context("fork")
    for index, times in ((0, 3), (1, 4), (0, 5)):
        process = processes.Process(target=count, args=(tally, index, times))
        process.start()
        process.join()
        assert process.exitcode == 0

    numbers = numbers_of(Exposition(tally).text())

    assert numbers[COUNT, "GET", "200", "/0"] == 8
    assert numbers[COUNT, "GET", "200", "/1"] == 4
    assert numbers[COUNT, "GET", "200", "/both"] == 12
    assert numbers["http_server_request_duration_seconds_sum", "GET", "200", "/both"] == pytest.approx(2.4)
    assert numbers["http_server_request_duration_seconds_bucket", "GET", "200", "/both", "0.1"] == 0
    assert numbers["http_server_request_duration_seconds_bucket", "GET", "200", "/both", "0.25"] == 12
    assert numbers[CONNECTIONS, "writer", "idle"] == 5 + 4
    assert numbers["onfinish_process_starts_total",] == 3


def test_a_tally_that_is_full_counts_on_where_it_can(expect_log):
    """Too many series are told once; those that have found room stay right, and nothing is overwritten."""
    tally = SharedCounters()
    metrics = Metrics(tally.slots[0])
    with expect_log("onfinish.server", "no room for more metrics") as told:
        for number in range(3000):
            metrics.answered(method="GET", route=f"/{number}", status=200, took_s=0.001)
    metrics.answered(method="GET", route="/0", status=200, took_s=0.001)

    sums = tally.sums()

    assert len(told) == 1
    counts = [sum(numbers[:-1]) for (family, _), numbers in sums.items() if family == REQUESTS.name]
    assert len(counts) > 1500
    assert set(counts) == {1, 2}
    assert sums["onfinish_processes", ()] == [1]


# -- the names of routes


def test_a_route_is_named_by_its_path_and_its_arguments():
    """As it is written in a document: ``/books/{book_id}/lent``."""
    names = RouteNames(routes())

    assert {name for _, name in names._all} == {
        "/shelves",
        "/shelves/{shelf_id}",
        "/books",
        "/books/lend",
        "/books/{book_id}",
        "/books/{book_id}/lent",
    }


@pytest.mark.gen_test
async def test_a_handler_of_several_routes_is_counted_under_the_right_one(serve: Serve):
    """Groups with names, groups without, and arguments without names."""

    class Handler(RequestHandler):
        def get(self, *parts: str, **named: str) -> None:
            self.finish(names.of_handler(self))

    all_routes = [URLSpec("/a/([0-9]+)", Handler), URLSpec("/b/(?P<key>[^/]+)/c", Handler)]
    names = RouteNames(all_routes)
    client = serve(Application([*all_routes]))

    assert (await client.get("/a/17")).body == b"/a/{1}"
    assert (await client.get("/b/x/c")).body == b"/b/{key}/c"


def test_a_database_without_observer_has_nothing_to_tell(tmp_path):
    """A server that does not count pays nothing: no hook is put into the pool."""
    from conf import DatabaseSettings

    plain = Database(DatabaseSettings(url=f"sqlite:///{tmp_path / 'x.db'}"))
    counted = Database(
        DatabaseSettings(url=f"sqlite:///{tmp_path / 'x.db'}"), Metrics(SharedCounters().slots[0])
    )

    def hooks(database: Database) -> int:
        return len(list(database.writer.engine.pool.dispatch.checkin))

    assert hooks(counted) == hooks(plain) + 1
    plain.dispose()
    counted.dispose()
