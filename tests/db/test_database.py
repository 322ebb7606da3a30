"""The database of one process: nothing before the first use, nothing after the end, one process only."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, Outcome
from db.capacity.executor import ThreadExecutor
from db.errors import DeadlinePassed
from tests.db.counters import add, create_counters, read, sleep, value
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog


def test_a_database_that_is_not_used_has_opened_nothing(tmp_path: Path):
    """Not even the file."""
    path = tmp_path / "new.db"

    Database(DatabaseSettings(url=f"sqlite:///{path}")).dispose()
    Database(DatabaseSettings(url="postgresql://127.0.0.1:1/nowhere")).dispose()

    assert not path.exists()


def test_there_are_as_many_slots_as_connections(database_url: str):
    database = Database(DatabaseSettings(url=database_url, pool_size=3, max_overflow=2, reader_pool_size=4))
    try:
        writers = 1 if database_url.startswith("sqlite") else 5
        assert (database.writer.limiter.size, database.reader.limiter.size) == (writers, 4)
        for endpoint in (database.writer, database.reader):
            assert isinstance(endpoint.executor, ThreadExecutor)
            assert endpoint.executor.threads.size == endpoint.limiter.size
    finally:
        database.dispose()


@pytest.mark.gen_test
async def test_closing_stops_and_undoes_what_is_under_way(database_url: str, sql: RawSql):
    """A running statement, a unit between two calls: both end soon, nothing is kept, all is closed."""
    create_counters(sql)
    database = Database(DatabaseSettings(url=database_url, pool_size=2))
    busy = database.unit_of_work(label="busy")
    await asyncio.create_task(busy.run(add, busy.session))
    call = asyncio.ensure_future(busy.run(sleep, busy.session, 30))
    pausing = database.unit_of_work(label="pausing", read_only=True)
    await asyncio.create_task(pausing.run(read, pausing.session))
    await asyncio.sleep(0.05)

    began = own_time()
    await database.close()

    assert own_time() - began < 2
    with pytest.raises(DeadlinePassed, match="shutting down"):
        await call
    assert (busy.outcome, pausing.outcome) == (Outcome.ROLLED_BACK, Outcome.ROLLED_BACK)
    assert value(sql) == 0
    assert database.writer.limiter.taken == database.reader.limiter.taken == 0


@pytest.mark.gen_test
async def test_closing_does_not_wait_for_ever(
    database_url: str, sql: RawSql, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
):
    """What hangs in Python is left to its thread, and comes to nothing there."""
    create_counters(sql)
    database = Database(DatabaseSettings(url=database_url))
    begun, enough = threading.Event(), threading.Event()

    def hang(session: Session) -> None:
        add(session)
        begun.set()
        enough.wait(20)

    monkeypatch.setattr("db.capacity.executor.SHUTDOWN_AFTER_S", 0.2)
    monkeypatch.setattr("db.capacity.executor.ABANDON_AFTER_S", 0.2)
    unit = database.unit_of_work(label="hanging")
    call = asyncio.ensure_future(unit.run(hang, unit.session))
    await asyncio.to_thread(begun.wait, 10)

    with expect_log("onfinish.db", "connection is cut"), expect_log("onfinish.db", "its work hangs"):
        began = own_time()
        await database.close()
        took_s = own_time() - began
    with pytest.raises(DeadlinePassed):
        await call
    enough.set()

    assert took_s < 1.5
    assert value(sql) == 0


@pytest.mark.gen_test
async def test_idleness_can_be_waited_for(database: Database, sql: RawSql):
    create_counters(sql)
    assert await database.idle(0.1)
    unit = database.unit_of_work()
    await unit.run(read, unit.session)

    assert not await database.idle(0.05)
    waiter = asyncio.ensure_future(database.idle(5))
    await unit.settle(keep=True)

    assert await waiter


CHILD = """
import os, sys, time
from conf import DatabaseSettings
from db import Database
from tests.db.counters import add, read

settings = DatabaseSettings(url=sys.argv[1], busy_timeout_s=20)
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        database = Database(settings)  # after the fork: a connection, a lock and a thread are one process's
        for _ in range(10):
            with database.session_scope() as session:
                add(session)
        database.dispose()
        os._exit(0)
    children.append(child)
statuses = [os.waitpid(child, 0)[1] for child in children]
database = Database(settings)
with database.session_scope(read_only=True) as session:
    print(statuses, read(session))
database.dispose()
"""


def test_a_forked_child_makes_a_database_of_its_own(database_url: str, sql: RawSql):
    """As a server with several processes does: nothing is opened before the fork, so nothing is shared."""
    create_counters(sql)

    result = subprocess.run(
        [sys.executable, "-c", CHILD, database_url], check=False, capture_output=True, text=True, timeout=60
    )

    assert result.stdout.strip() == "[0, 0, 0] 30", result.stderr


def test_making_a_database_starts_no_thread_and_opens_no_connection(database_url: str):
    """So that one made too early, before a fork, has at least nothing that a child could share."""
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))

    database = Database(DatabaseSettings(url=database_url))

    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, files)
    database.dispose()


def test_a_script_needs_no_event_loop(database_url: str, sql: RawSql, io_loop: IOLoop):
    create_counters(sql)
    database = Database(DatabaseSettings(url=database_url))

    with database.session_scope() as session:
        add(session)
    database.dispose()

    assert value(sql) == 1


@pytest.fixture
def other(database_url: str, tmp_path: Path, io_loop: IOLoop) -> Iterator[Database]:
    """A second database of the same process, whose connections are asked whether they live at each use."""
    other = Database(DatabaseSettings(url=f"sqlite:///{tmp_path / 'other.db'}", pool_ping_after_s=0))
    try:
        yield other
    finally:
        io_loop.run_sync(other.close)


def ask(database: Database) -> None:
    """Use a database from a thread, on a connection that has rested."""
    with database.session_scope(label="other") as session:
        session.execute(text("SELECT 1"))


@pytest.mark.gen_test
async def test_a_function_may_use_another_database_of_the_process(
    database: Database, other: Database, sql: RawSql
):
    """Its own unit of work knows its own connection still, and is kept."""
    create_counters(sql)
    await asyncio.to_thread(ask, other)

    def both(session: Session) -> None:
        add(session)
        ask(other)

    async with database.unit_of_work() as unit:
        await unit.run(both, unit.session)

    assert value(sql) == 1


@pytest.mark.gen_test
async def test_a_function_that_used_another_database_can_be_stopped(
    database: Database, other: Database, sql: RawSql
):
    """What is cancelled at its deadline is its own statement."""
    create_counters(sql)
    await asyncio.to_thread(ask, other)

    def both(session: Session) -> None:
        add(session)
        ask(other)
        sleep(session, 20)

    began = own_time()
    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work(deadline_at=time.monotonic() + 0.3) as unit:
            await unit.run(both, unit.session)

    assert own_time() - began < 3
    assert database.writer.limiter.taken == 0
    assert value(sql) == 0
