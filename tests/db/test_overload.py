"""Overload, over HTTP: requests that cannot be served are refused soon, and others are not delayed.

The numbers are those that the service promises. Time in which others had the CPU is not the service's.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from tornado.web import Application

from conf import DatabaseSettings, Settings
from db import Database
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer, Client
from tests.fixtures.service import MakeApp

pytestmark = pytest.mark.gen_test

POOL_TIMEOUT_S = 0.5
BOOK = {"title": "a book"}

Lock = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """Few slots and short timeouts."""
    return DatabaseSettings(url=database_url, pool_size=5, pool_timeout_s=POOL_TIMEOUT_S, busy_timeout_s=60)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No request here is to be ended by its own deadline, however slow the machine."""
    http = settings.http.model_copy(update={"request_timeout_s": 120.0})
    return settings.model_copy(update={"http": http})


@pytest.fixture(params=["table", "row"])
def lock(request: pytest.FixtureRequest, backend: str, sql: RawSql) -> Lock:
    """A connection outside that holds what every writer needs; on SQLite that is always the file."""

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        with sql.connect() as connection:
            cursor = connection.cursor()
            if backend == "sqlite":
                cursor.execute("BEGIN IMMEDIATE")
            elif request.param == "table":
                cursor.execute("BEGIN; LOCK TABLE shelves IN ACCESS EXCLUSIVE MODE")
            else:
                cursor.execute("BEGIN; SELECT * FROM shelves FOR UPDATE")
            yield

    return held


@pytest.fixture
def permitted(expect_log: ExpectLog) -> Iterator[None]:
    """A 503 is worth a warning in the log; here it is what was asked for."""
    with (
        expect_log("onfinish", "503 |retrying", required=False),
        expect_log("tornado.access", "503 ", required=False),
    ):
        yield


def percentile(times_s: list[float], share: float) -> float:
    return sorted(times_s)[min(len(times_s) - 1, int(len(times_s) * share))]


async def timed(request: asyncio.Future[Answer]) -> tuple[Answer, float]:
    began = own_time()
    return await request, own_time() - began


async def test_writers_behind_a_lock_stop_neither_reads_nor_probes(
    client: Client, database: Database, lock: Lock, permitted: None
):
    """Reads as before, /livez under 50 ms at p99, further writes 503 in time; all goes on when it is gone."""
    shelf = (await client.post("/shelves", {"name": "a"})).json()["id"]
    book = (await client.post("/books", BOOK)).json()["id"]
    path = f"/shelves/{shelf}"
    for _ in range(3):  # what is done once a process is not what is measured
        await asyncio.gather(client.get("/livez"), client.get(f"/books/{book}"))
    limiter = database.writer.limiter
    alive_s: list[float] = []
    reads_s: list[float] = []

    with lock():
        stuck = [
            asyncio.ensure_future(client.patch(path, {"name": f"b{number}"}, request_timeout=120))
            for number in range(limiter.size)
        ]
        while limiter.taken < limiter.size:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        further = [
            asyncio.ensure_future(timed(asyncio.ensure_future(client.patch(path, {"name": f"c{number}"}))))
            for number in range(10)
        ]
        await asyncio.sleep(
            0.05
        )  # ten requests at once are work for the client too, which shares the process
        for _ in range(150):
            answer, took_s = await timed(asyncio.ensure_future(client.get("/livez")))
            assert answer.code == 200
            alive_s.append(took_s)
            answer, took_s = await timed(asyncio.ensure_future(client.get(f"/books/{book}")))
            assert answer.code == 200
            reads_s.append(took_s)
        refused = await asyncio.gather(*further)
        assert not any(request.done() for request in stuck)
    answers = await asyncio.gather(*stuck)

    assert percentile(alive_s, 0.99) < 0.05
    assert percentile(reads_s, 0.99) < 0.25
    for answer, took_s in refused:
        assert (answer.code, answer.json()["outcome"]) == (503, "not_applied")
        assert int(answer.headers["Retry-After"]) >= 1
        assert took_s < POOL_TIMEOUT_S + 0.5
    assert {answer.code for answer in answers} == {200}
    assert (await client.patch(path, {"name": "z"})).code == 200
    assert limiter.taken == 0


async def test_a_full_queue_of_writers_is_served_in_the_end(client: Client, database: Database, sql: RawSql):
    """More than there are slots, each short: all are answered 2xx."""
    database.settings = database.settings.model_copy(update={"pool_timeout_s": 25.0})

    answers = await asyncio.gather(*(client.post("/books", BOOK) for _ in range(200)))

    assert {answer.code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 200
    assert sql("SELECT count(*) AS n FROM books") == [{"n": 200}]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_twenty_clients_write_to_one_file_beside_a_long_reader(
    client: Client, sql: RawSql, permitted: None
):
    """2xx or 503, and never a 500 that says "locked"; what was acknowledged is there, and nothing else."""
    codes: list[int] = []

    async def one(number: int) -> None:
        for turn in range(6):
            answer = await client.post("/shelves", {"name": f"{number}-{turn}"})
            codes.append(answer.code)

    with sql.connect() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM shelves").fetchall()
        await asyncio.gather(*(one(number) for number in range(20)))
        assert reader.execute("SELECT count(*) FROM shelves").fetchone() == (0,), "one snapshot all the while"

    assert set(codes) <= {201, 503}
    assert codes.count(201) > 5
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": codes.count(201)}]


OTHER_PROCESS = """
import sys, time
from conf import DatabaseSettings
from db import Database
from db.errors import RetryableConflict
from tests.service.model import create_shelf

database = Database(DatabaseSettings(url=sys.argv[1], busy_timeout_s=0.05))
print("ready", flush=True)
sys.stdin.readline()
kept = 0
give_up_at = time.monotonic() + 1.5
while time.monotonic() < give_up_at:
    try:
        with database.session_scope() as session:
            create_shelf(session, name=f"other {kept}")
            time.sleep(0.03)
        kept += 1
    except RetryableConflict:
        pass
database.dispose()
print(kept)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_two_processes_write_to_one_file(
    database_url: str,
    settings: Settings,
    serve: Callable[[Application], Client],
    make_application: MakeApp,
    sql: RawSql,
    permitted: None,
):
    """A file that another process keeps busy: the request runs again or is 503; all rows are there."""
    database = Database(DatabaseSettings(url=database_url, pool_timeout_s=2, busy_timeout_s=0.05))
    client = serve(make_application(settings, database))
    codes: list[int] = []
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS, database_url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert await other.stdout.readline() == b"ready\n"
    other.stdin.write(b"\n")

    async def one(number: int) -> None:
        for turn in range(8):
            answer = await client.post("/shelves", {"name": f"{number}-{turn}"})
            codes.append(answer.code)

    await asyncio.gather(*(one(number) for number in range(5)))
    kept_by_other = int(await other.stdout.readline())
    await other.wait()
    await database.close()

    assert set(codes) <= {201, 503}
    assert 201 in codes
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": codes.count(201) + kept_by_other}]
