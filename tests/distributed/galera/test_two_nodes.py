"""A node that writes and one that reads: what is written at one is read at the other. Jobs at both."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pymysql
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, Jobs
from tests.distributed.galera.conftest import NAME, ServiceAt
from tests.distributed.read_after import ReadAfterLoad
from tests.faults.conftest import told_in_the_log as told_in_the_log
from tests.faults.ledger import Ledger
from tests.fixtures.databases import RawSql
from tests.fixtures.galera import GaleraCluster, Node
from tests.fixtures.server import Client
from tests.fixtures.waiting import wait_until

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=60),
    pytest.mark.usefixtures("told_in_the_log"),
]

HELD_S = 0.3


@pytest.fixture
def waits() -> bool:
    """Whether a read waits for what the cluster has committed; a test may choose."""
    return True


@pytest.fixture
def service(cluster: GaleraCluster, service_at: ServiceAt, waits: bool) -> Client:
    """Writes at the first node, reads at the second."""
    first, second, _ = cluster.nodes
    return service_at(
        first.url_for(NAME),
        **{"database.reader_url": second.url_for(NAME), "database.wsrep_sync_wait": waits},
    )


@contextmanager
def applying_nothing(node: Node) -> Iterator[None]:
    """It receives what the others commit, and does not apply it; it answers as ever."""
    with (
        closing(
            pymysql.connect(host="127.0.0.1", port=node.port, user=node.user, password=node.password)
        ) as held,
        held.cursor() as cursor,
    ):
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        yield
        cursor.execute("UNLOCK TABLES")


@pytest.mark.parametrize("waits", [False])
async def test_a_node_that_lags_shows_old_data(service: Client, cluster: GaleraCluster):
    """What the setting is for."""
    with applying_nothing(cluster.nodes[1]):
        wrote = await service.post("/books", {"title": "a book"})
        read = await service.get(wrote.headers["Location"])

    assert (wrote.code, read.code) == (201, 404)


async def test_a_read_waits_until_its_node_has_what_was_committed(service: Client, cluster: GaleraCluster):
    """And no longer."""
    codes, waited_s = [], []

    for _ in range(5):
        with applying_nothing(cluster.nodes[1]):
            wrote = await service.post("/books", {"title": "a book"})
            began = time.monotonic()
            reading = asyncio.ensure_future(service.get(wrote.headers["Location"]))
            await asyncio.sleep(HELD_S)
        codes.append((wrote.code, (await reading).code))
        waited_s.append(time.monotonic() - began)

    assert codes == [(201, 200)] * 5
    assert min(waited_s) >= HELD_S


async def test_under_load_no_read_at_the_second_node_is_stale(service: Client, sql: RawSql):
    ledger = Ledger()
    load = ReadAfterLoad(service, ledger)

    async with load:
        await asyncio.sleep(3.0)

    print(dict(ledger.answers), dict(load.reads))
    assert load.reads["without a token"] > 50, "there was no load"
    assert load.reads["stale without a token"] == 0
    assert ledger.compare(sql) == []


@pytest.fixture
def jobs(cluster: GaleraCluster, sql: RawSql, io_loop: IOLoop) -> Iterator[list[Jobs]]:
    """Of three processes: two at the first node, one at the second."""
    first, second, _ = cluster.nodes
    databases = [Database(DatabaseSettings(url=node.url_for(NAME))) for node in (first, first, second)]
    jobs = [Jobs(database) for database in databases]
    yield jobs
    for each, database in zip(jobs, databases, strict=True):
        io_loop.run_sync(each.stop)
        io_loop.run_sync(database.close)


async def test_a_job_that_runs_alone_does_so_at_each_node(jobs: list[Jobs]):
    """The lock is its node's: another process there leaves its run out, one at another node does not."""
    has_begun, go_on, runs = threading.Event(), threading.Event(), [0, 0, 0]

    def hold(session: Session) -> None:
        has_begun.set()
        go_on.wait(20)

    def count(session: Session, number: int) -> None:
        runs[number] += 1

    jobs[0].every(0.01, hold, label="work", alone=True)
    assert await asyncio.to_thread(has_begun.wait, 10)
    for number in (1, 2):
        jobs[number].every(0.01, count, number, label="work", alone=True)
    assert await asyncio.to_thread(wait_until, lambda: runs[2] >= 20, timeout_s=20)
    meanwhile = runs[1]
    jobs[0].stopping.set()
    go_on.set()
    assert await asyncio.to_thread(wait_until, lambda: runs[1] > 0, timeout_s=20)

    assert meanwhile == 0


async def test_jobs_of_two_nodes_that_change_one_row_change_it_one_after_the_other(
    jobs: list[Jobs], sql: RawSql
):
    """Certification refuses one of two that met, and all of that run is repeated."""
    attempts = [0, 0, 0]
    sql("INSERT INTO books (id) VALUES (REPEAT('a', 32))")

    def count(session: Session, number: int) -> None:
        attempts[number] += 1
        session.execute(text("INSERT INTO books (id) VALUES (:id)"), {"id": uuid.uuid4().hex})
        session.execute(text("UPDATE books SET pages = pages + 1 WHERE id = REPEAT('a', 32)"))
        time.sleep(0.01)  # long enough to meet

    for number in (0, 2):
        jobs[number].every(0.005, count, number, label="work", alone=True)
    assert await asyncio.to_thread(wait_until, lambda: attempts[0] >= 30 and attempts[2] >= 30, timeout_s=30)
    for each in jobs:
        await each.stop()

    [found] = sql("SELECT MAX(pages) AS changes, COUNT(*) - 1 AS runs FROM books")
    print(found, attempts)
    assert found["changes"] == found["runs"] > 20
    assert found["runs"] < sum(attempts), "no two ever met"
