"""What a server does by itself: expired keys, idle connections, old commit markers."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from conf import DatabaseSettings
from db import Database, Jobs
from db.observer import Observer
from server.jobs import start_jobs
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import free_port
from tests.fixtures.process import StartServer
from tests.fixtures.waiting import wait_until

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

EVERY_S = 0.05


@asynccontextmanager
async def running(database: Database, *, first: bool) -> AsyncIterator[Jobs]:
    """A server's jobs, done many times a second, ended at the end."""
    jobs = start_jobs(database, first=first, every_s=EVERY_S)
    try:
        yield jobs
    finally:
        await jobs.stop()


async def becomes_true(condition) -> bool:
    """As `wait_until`, while the loop goes on."""
    return await asyncio.to_thread(wait_until, condition, timeout_s=10)


def insert_keys(sql, number: int, *, hours_old: float) -> None:
    """Idempotency keys of so many hours ago."""
    at = (datetime.now(UTC) - timedelta(hours=hours_old)).replace(tzinfo=None)
    with sql.connect() as connection:
        cursor = connection.cursor()
        cursor.executemany(
            sql.spelt(
                "INSERT INTO idempotency_keys (method, path, key, fingerprint, create_time)"
                " VALUES ('POST', '/shelves', :key, 'f', :at)"
            ),
            [
                {"key": f"{hours_old} {n}", "at": f"{at.isoformat(' ', 'microseconds')}"}
                for n in range(number)
            ],
        )
        cursor.close()


@pytest.mark.gen_test
async def test_expired_keys_are_deleted_to_the_last(database: Database, sql):
    """In as many transactions as it takes; what is younger than a day stays."""
    insert_keys(sql, 2300, hours_old=25)
    insert_keys(sql, 3, hours_old=23)

    def left() -> int:
        [row] = sql("SELECT count(*) AS n FROM idempotency_keys")
        return int(row["n"])

    assert left() == 2303
    async with running(database, first=True):
        assert await becomes_true(lambda: left() == 3)
        await asyncio.sleep(3 * EVERY_S)

    assert left() == 3


class Lags(Observer):
    """How far behind the replica was told to be."""

    def __init__(self) -> None:
        self.told: list[float | None] = []

    def behind(self, behind_s: float | None) -> None:
        self.told.append(behind_s)


@on_postgresql
@pytest.mark.gen_test
async def test_a_replica_that_does_not_answer_is_infinitely_behind_and_a_full_pool_says_nothing_of_it(
    database_url: str, expect_log: ExpectLog
):
    nowhere = f"postgresql://127.0.0.1:{free_port()}/nowhere"
    observer = Lags()
    database = Database(
        DatabaseSettings(url=database_url, reader_url=nowhere, reader_pool_size=1, pool_timeout_s=0.1),
        observer,
    )

    with expect_log("onfinish.jobs", "asking the replica for its lag"):
        async with running(database, first=True):
            assert await becomes_true(lambda: len(observer.told) > 0)
        down = set(observer.told)
        observer.told.clear()
        slot = await database.reader.limiter.acquire(1.0)
        async with running(database, first=True):
            await asyncio.sleep(0.5)
        slot.release()
    await database.close()

    assert down == {math.inf}
    assert observer.told == []


@pytest.mark.usefixtures("shelves")
@on_postgresql
@pytest.mark.gen_test
@pytest.mark.executor("threads")  # in greenlets the job has a connection of its own, with its row
async def test_commit_markers_of_connections_that_are_gone_are_deleted(
    database_settings: DatabaseSettings, sql
):
    """After a day; one that is deleted under a connection that lives is written anew at its next commit."""
    database = Database(database_settings.model_copy(update={"pool_size": 1}))
    async with database.unit_of_work() as unit:
        await unit.run(_insert_shelf, unit.session, "Store")
    sql("UPDATE commit_witness SET update_time = now() - interval '25 hours'")
    sql("INSERT INTO commit_witness (connection, transaction) VALUES ('young', 'x')")

    async with running(database, first=True):
        assert await becomes_true(
            lambda: (
                sql("SELECT count(*) AS n FROM commit_witness WHERE update_time < now() - interval '1 hour'")
                == [{"n": 0}]
            )
        )
    async with database.unit_of_work() as unit:
        await unit.run(_insert_shelf, unit.session, "Other")

    await database.close()

    assert sql("SELECT connection FROM commit_witness WHERE connection = 'young'")
    assert len(sql("SELECT connection FROM commit_witness WHERE connection <> 'young'")) == 1


def _insert_shelf(session, name: str) -> None:
    session.connection().exec_driver_sql(f"INSERT INTO shelves (name, create_time) VALUES ('{name}', now())")


@on_postgresql
@pytest.mark.gen_test
async def test_idle_connections_are_closed_down_to_the_least(database_settings: DatabaseSettings, sql):
    """Five at once, then rest: one stays, as PostgreSQL sees it. Every process does it for itself."""
    settings = database_settings.model_copy(update={"pool_idle_s": 0.2, "application_name": "resting"})
    database = Database(settings)
    units = [database.unit_of_work(read_only=True) for _ in range(5)]
    await asyncio.gather(*(asyncio.create_task(_use(unit)) for unit in units))

    def open_connections() -> int:
        [row] = sql("SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'resting'")
        return int(row["n"])

    assert open_connections() == 5
    async with running(database, first=False):
        assert await becomes_true(lambda: open_connections() == 1)
        await asyncio.sleep(3 * EVERY_S)
        assert open_connections() == 1
    await database.close()


def _connect(session) -> None:
    session.connection()


async def _use(unit) -> None:
    async with unit:
        await unit.run(_connect, unit.session)
        await asyncio.sleep(0.3)


@pytest.mark.gen_test
async def test_what_one_process_does_for_all_is_not_done_by_each(database: Database):
    """Rows are deleted by the first one; connections are each process's own."""

    async def names(*, first: bool) -> set[str]:
        async with running(database, first=first):
            return {
                thread.name for thread in threading.enumerate() if thread.name.startswith("onfinish-job ")
            }

    only_first = await names(first=True) - await names(first=False)

    assert "onfinish-job deleting expired idempotency keys" in only_first
    assert only_first <= {
        "onfinish-job deleting expired idempotency keys",
        "onfinish-job deleting old commit markers",
    }


def test_a_server_whose_database_is_down_logs_it_once_and_goes_on(unused_port, start_server: StartServer):
    """Twenty turns, one line; SIGTERM ends it as ever."""
    server = start_server(
        "--jobs-every-s", "0.05", "--grace-s", "0", url=f"postgresql://x@127.0.0.1:{unused_port}/x"
    )
    assert wait_until(lambda: "deleting old commit markers: failed" in server.err, timeout_s=10)
    assert server.request("GET", "/livez").status == 200
    threading.Event().wait(0.5)

    lines = [line for line in server.err.splitlines() if "onfinish.jobs" in line]
    assert len(lines) == 2, lines
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_a_server_does_its_jobs(database_url, start_server: StartServer, sql):
    """From its start on, without being asked."""
    insert_keys(sql, 5, hours_old=30)
    server = start_server("--jobs-every-s", "0.1", "--grace-s", "0", url=database_url)

    assert wait_until(lambda: sql("SELECT count(*) AS n FROM idempotency_keys") == [{"n": 0}], timeout_s=10)
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "5 expired idempotency keys were deleted" in server.err
