"""SQLite made safe: its transactions are ours, its writers queue, its readers cannot write."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database
from db.errors import (
    ClientDisconnected,
    Conflict,
    DeadlinePassed,
    ReadOnlyViolation,
    RetryableConflict,
    TransactionAborted,
)
from tests.db.counters import (
    add,
    create_counters,
    create_families,
    orphan,
    read,
    read_then_write,
    sleep,
    value,
)
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql


@pytest.fixture
def backend() -> str:
    """This one alone."""
    return "sqlite"


@pytest.fixture
def memory(io_loop: IOLoop) -> Iterator[Database]:
    """A database in memory with counters in it."""
    database = Database(DatabaseSettings(url="sqlite://", pool_timeout_s=0.2))
    try:
        with database.session_scope() as session:
            session.execute(text("CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL)"))
            session.execute(text("INSERT INTO counters VALUES (1, 0)"))
        yield database
    finally:
        io_loop.run_sync(database.close)


def pragma(session: Session, name: str) -> Any:
    return session.scalar(text(f"PRAGMA {name}"))


def test_a_connection_is_what_a_service_needs(database: Database):
    """WAL, foreign keys, patience with other processes; and a reader that the database keeps from writing."""
    with database.session_scope() as session:
        assert pragma(session, "journal_mode") == "wal"
        assert pragma(session, "foreign_keys") == 1
        assert pragma(session, "busy_timeout") == 5000
        assert pragma(session, "query_only") == 0

    with database.session_scope(read_only=True) as session:
        assert pragma(session, "query_only") == 1
        assert pragma(session, "busy_timeout") == 5000


@pytest.mark.parametrize("given", ["url", "query", "connect_args", "settings"])
def test_the_busy_timeout_is_the_one_that_was_given(
    database_url: str, given: str, io_loop: IOLoop, sql: RawSql
):
    """The driver's name for it in the URL counts for BEGIN IMMEDIATE too, which waits in its own way."""
    settings = {
        "url": DatabaseSettings(url=f"{database_url}?timeout=0.2"),
        "query": DatabaseSettings(url=database_url, query={"timeout": "0.2"}),
        "connect_args": DatabaseSettings(url=database_url, connect_args={"timeout": 0.2}),
        "settings": DatabaseSettings(url=database_url, busy_timeout_s=0.2),
    }[given]
    database = Database(settings)
    create_counters(sql)

    with sql.connect() as other:
        other.execute("BEGIN IMMEDIATE")
        began, began_here = time.monotonic(), own_time()
        with pytest.raises(RetryableConflict) as caught, database.session_scope() as session:
            add(session)
        waited_s, waited_here_s = time.monotonic() - began, own_time() - began_here
    with database.session_scope() as session:
        assert pragma(session, "busy_timeout") == 200

    io_loop.run_sync(database.close)
    assert waited_s >= 0.2
    assert waited_here_s < 0.8
    assert caught.value.reason == "busy"


def test_a_savepoint_undoes_its_own_part(database: Database, sql: RawSql):
    """sqlite3's own transactions would have ended at the savepoint."""
    create_counters(sql)

    with database.session_scope() as session:
        add(session)
        with session.begin_nested() as savepoint:
            add(session, 10)
            savepoint.rollback()
        with session.begin_nested():
            add(session, 100)

    assert value(sql) == 101


def test_a_statement_refused_inside_a_savepoint_leaves_the_rest(database: Database, sql: RawSql):
    create_counters(sql)

    with database.session_scope() as session:
        add(session)
        with pytest.raises(Exception, match="UNIQUE"), session.begin_nested():
            session.execute(text("INSERT INTO counters VALUES (1, 5)"))

    assert value(sql) == 1


def test_a_table_made_in_a_transaction_is_undone_with_it(database: Database, sql: RawSql):
    """sqlite3 would commit before DDL."""
    create_counters(sql)

    with pytest.raises(KeyError), database.session_scope() as session:
        add(session)
        session.execute(text("CREATE TABLE short_lived (id integer)"))
        raise KeyError

    assert value(sql) == 0
    assert sql("SELECT name FROM sqlite_master WHERE name = 'short_lived'") == []


def test_a_writer_has_the_file_before_it_reads(database: Database, sql: RawSql):
    """BEGIN IMMEDIATE: a deferred one that has read fails at its first write, whatever the timeout."""
    create_counters(sql)

    with database.session_scope() as session, sql.connect() as other:
        read(session)
        other.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")


def test_a_reader_holds_nothing_between_its_statements(database: Database, sql: RawSql):
    """It sends no BEGIN, so it sees what was committed since, and a checkpoint need not wait for it."""
    create_counters(sql)

    with database.session_scope(read_only=True) as session:
        before = read(session)
        assert not session.connection().connection.dbapi_connection.in_transaction  # type: ignore[union-attr]
        sql("UPDATE counters SET n = 7")
        after = read(session)

    assert (before, after) == (0, 7)


def test_a_reader_and_a_writer_do_not_wait_for_each_other(database: Database, sql: RawSql):
    create_counters(sql)

    began = own_time()
    with ThreadPoolExecutor(1) as other, database.session_scope() as writing:
        add(writing)

        def look() -> int:
            with database.session_scope(read_only=True) as reading:
                return read(reading)

        assert other.submit(look).result(5) == 0

    assert own_time() - began < 2
    assert value(sql) == 1


def test_two_units_that_read_and_then_write_lose_nothing(database_url: str, sql: RawSql, io_loop: IOLoop):
    """In one process they queue for the one slot; no update is lost and none is "locked"."""
    create_counters(sql)
    database = Database(DatabaseSettings(url=database_url))

    def work() -> None:
        for _ in range(20):
            with database.session_scope() as session:
                read_then_write(session, 0.001)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(work) for _ in range(4)]:
            future.result(20)
    io_loop.run_sync(database.close)

    assert value(sql) == 80


PROCESS = """
import sys
from conf import DatabaseSettings
from db import Database
from db.errors import RetryableConflict
from tests.db.counters import read_then_write

database = Database(DatabaseSettings(url=sys.argv[1], busy_timeout_s=0.1))
print("ready", flush=True)
sys.stdin.readline()
done = busy = 0
while done < 15:
    try:
        with database.session_scope() as session:
            read_then_write(session, 0.002)
        done += 1
    except RetryableConflict:
        busy += 1
database.dispose()
print(busy)
"""


@pytest.mark.slow
def test_two_processes_on_one_file_lose_nothing(database_url: str, sql: RawSql):
    """A unit that finds the file busy too long is to be retried; then the sum is right."""
    create_counters(sql)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=30)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    assert value(sql) == 30


def test_a_deadline_ends_the_wait_for_another_processs_lock(database: Database, sql: RawSql):
    """SQLite does not hear an interrupt while it waits, so the wait is cut into pieces."""
    create_counters(sql)

    with sql.connect() as other:
        other.execute("BEGIN IMMEDIATE")
        began, began_here = time.monotonic(), own_time()
        with pytest.raises(DeadlinePassed), database.session_scope(timeout_s=0.3) as session:
            add(session)
        waited_s, waited_here_s = time.monotonic() - began, own_time() - began_here

    assert waited_s > 0.25
    assert waited_here_s < 0.8
    assert value(sql) == 0


def test_a_commit_that_fails_is_not_committed_by_the_next_user(
    database_url: str, sql: RawSql, io_loop: IOLoop
):
    """COMMIT says "database is locked", and the write stays in the connection until it is rolled back.

    With a write-ahead log COMMIT waits for no reader, so this file has none.
    """
    create_counters(sql)
    database = Database(DatabaseSettings(url=database_url, busy_timeout_s=0.1))
    with database.writer.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert driver.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)

    with sql.connect() as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM counters").fetchall()
        with pytest.raises(RetryableConflict), database.session_scope() as session:
            add(session, 1000)
    with database.session_scope() as session:
        add(session, 1)
        same = session.connection().connection.dbapi_connection is driver

    io_loop.run_sync(database.close)
    assert same, "the test shows nothing unless the next user has the same connection"
    assert value(sql) == 1


def test_a_deferred_foreign_key_that_fails_is_not_committed_by_the_next_user(database: Database, sql: RawSql):
    """SQLite leaves the transaction open when COMMIT fails for it."""
    create_families(sql)
    with pytest.raises(Conflict), database.session_scope() as session:
        orphan(session)
        driver = session.connection().connection.dbapi_connection

    with database.session_scope() as session:
        session.execute(text("INSERT INTO parents VALUES (99)"))
        assert session.connection().connection.dbapi_connection is driver

    assert sql("SELECT count(*) AS n FROM parents") == [{"n": 1}]
    assert sql("SELECT count(*) AS n FROM children") == [{"n": 0}]


@pytest.mark.parametrize(
    ("refusal", "statement"),
    [
        (
            "CREATE TRIGGER strict BEFORE INSERT ON counters BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
            "INSERT INTO counters VALUES (2, 0)",
        ),
        ("SELECT 1", "INSERT OR ROLLBACK INTO counters VALUES (1, 0)"),
    ],
    ids=["trigger", "conflict clause"],
)
def test_a_transaction_that_sqlite_rolled_back_by_itself_is_not_called_kept(
    database: Database, sql: RawSql, refusal: str, statement: str
):
    """The program swallowed the error; sqlite3's commit() would do nothing and say nothing."""
    create_counters(sql)
    sql(refusal)

    with pytest.raises(TransactionAborted, match="begin_nested"), database.session_scope() as session:
        add(session)
        with pytest.raises(Exception, match=r"UNIQUE|no"):
            session.execute(text(statement))

    assert value(sql) == 0
    with database.session_scope() as session:
        add(session)
    assert value(sql) == 1


def test_what_follows_an_automatic_rollback_is_not_kept_either(database: Database, sql: RawSql):
    """After it, SQLite would run each statement in a transaction of its own: half a unit, committed."""
    create_counters(sql)

    with pytest.raises(TransactionAborted), database.session_scope() as session:
        add(session)
        with pytest.raises(Exception, match="UNIQUE"):
            session.execute(text("INSERT OR ROLLBACK INTO counters VALUES (1, 0)"))
        add(session, 10)

    assert value(sql) == 0


def test_a_statement_is_interrupted_and_its_connection_goes_on(database: Database, io_loop: IOLoop):
    """Nothing of it is left for the next: an interrupt reaches a running statement or nothing."""

    async def work() -> float:
        began = own_time()
        unit = database.unit_of_work(deadline_at=time.monotonic() + 0.2)
        with pytest.raises(DeadlinePassed):
            async with unit:
                await unit.run(sleep, unit.session, 60)
        return own_time() - began

    took_s = io_loop.run_sync(work)
    with database.session_scope() as session:
        assert session.scalar(text("SELECT 1")) == 1

    assert took_s < 1


def read_in_part(session: Session, kept: list[Any]) -> None:
    """Begin a statement, and leave it in the middle; its result is still referenced, as by a traceback."""
    numbers = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000) "
    rows = session.execute(text(f"{numbers} SELECT counters.n FROM n, counters"))
    kept += [rows, next(rows)]


@pytest.mark.parametrize("snapshot", [True, False])
def test_what_was_read_in_part_leaves_no_snapshot_to_the_next_user(
    database: Database, sql: RawSql, io_loop: IOLoop, snapshot: bool
):
    """An export whose client has left: the next user of its connection would read what had been."""
    create_counters(sql)
    kept: list[Any] = []

    async def leave() -> None:
        with pytest.raises(ZeroDivisionError):
            async with database.unit_of_work(read_only=True, snapshot=snapshot) as unit:
                await unit.run(read_in_part, unit.session, kept)
                raise ZeroDivisionError

    io_loop.run_sync(leave)
    sql("UPDATE counters SET n = 7")
    with database.session_scope(read_only=True) as session:
        assert read(session) == 7

    assert kept[1].n == 0


def test_a_connection_that_was_read_from_in_part_closes_its_file(io_loop: IOLoop, tmp_path: Path):
    """Stopped in the middle, and thrown away for that."""
    file = str(tmp_path / "file.db")
    create_counters(RawSql(f"sqlite:///{file}"))
    database = Database(DatabaseSettings(url=f"sqlite:///{file}"))
    kept: list[Any] = []

    async def stop() -> None:
        unit = database.unit_of_work(read_only=True, snapshot=True)
        await unit.run(read_in_part, unit.session, kept)
        unit.cancel(ClientDisconnected())
        await database.idle(5)
        await database.close()

    io_loop.run_sync(stop)

    open_files = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert kept
    assert not any(name.startswith(file) for name in open_files)


def test_an_in_memory_database_is_one_connection_and_one_slot(memory: Database):
    """Two units of work on one connection would commit and roll back each other's rows."""
    assert memory.reader.limiter is memory.writer.limiter
    assert memory.writer.limiter.size == 1

    with memory.session_scope() as session:
        add(session)
        with ThreadPoolExecutor(1) as other, pytest.raises(Exception, match="all 1 slots") as caught:
            other.submit(lambda: memory.session_scope(read_only=True).__enter__()).result()
    assert type(caught.value).__name__ == "PoolTimeout"


def test_an_in_memory_rollback_is_a_rollback(memory: Database):
    with pytest.raises(KeyError), memory.session_scope() as session:
        add(session, 1000)
        raise KeyError
    with memory.session_scope() as session:
        add(session, 1)

    with memory.session_scope(read_only=True) as session:
        assert read(session) == 1


def test_an_in_memory_reader_cannot_write_and_does_not_stop_the_next_writer(memory: Database):
    """query_only on the one connection that there is would hold for the writer too."""
    for _ in range(2):
        with (
            pytest.raises(ReadOnlyViolation, match="reader"),
            memory.session_scope(label="GET Some", read_only=True) as session,
        ):
            add(session, 1000)
        with memory.session_scope() as session:
            add(session)

    with memory.session_scope(read_only=True) as session:
        assert read(session) == 2


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_every_way_to_write_in_memory_is_known(url: str):
    database = Database(DatabaseSettings(url=url))
    try:
        assert database.backend.shares_one_connection
    finally:
        database.dispose()


def test_a_file_has_one_slot_for_writers_and_many_for_readers(database: Database, tmp_path: Path):
    assert (database.writer.limiter.size, database.reader.limiter.size) == (1, 10)
