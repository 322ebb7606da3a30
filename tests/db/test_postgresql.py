"""PostgreSQL: limits from the first moment, errors told apart by their codes."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it comes without types
import psycopg
import psycopg2
import pytest
from sqlalchemy import event, make_url as parse_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, Outcome, UnitOfWork
from db.backends.choose import backend_for
from db.errors import (
    Conflict,
    DatabaseError,
    DeadlinePassed,
    OutcomeUnknown,
    ReadOnlyViolation,
    RetryableConflict,
    SessionNotOwned,
    StatementFailed,
    TransactionAborted,
    TransactionEnded,
    Unavailable,
    Unreachable,
)
from tests.db.counters import add, create_counters, create_families, orphan, read, sleep, value
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.waiting import wait_until

LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")

OwnDatabase = Callable[..., Database]


@pytest.fixture
def backend() -> str:
    """This one alone."""
    return "postgresql"


@pytest.fixture
def own_database(database_url: str, io_loop: IOLoop) -> Iterator[OwnDatabase]:
    """A database with settings of the test's own, closed at the end."""
    made: list[Database] = []

    def make(query: str = "", **settings: Any) -> Database:
        made.append(Database(DatabaseSettings(url=database_url + query, **settings)))
        return made[-1]

    yield make
    for database in made:
        io_loop.run_sync(database.close)


def shown(session: Session, *names: str) -> list[str]:
    return [str(session.scalar(text(f"SHOW {name}"))) for name in names]


def terminate_others(sql: RawSql) -> None:
    """End every other connection to the test's database, as an administrator or a fail-over does."""
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def cancel_commit(sql: RawSql) -> None:
    """Cancel the COMMIT that runs, as an administrator does."""
    commits = "FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'"
    assert wait_until(lambda: bool(sql(f"SELECT pid {commits}")))
    sql(f"SELECT pg_cancel_backend(pid) {commits}")


def test_limits_hold_from_a_connections_first_statement(own_database: OwnDatabase):
    database = own_database(lock_timeout_s=7, application_name="the board")

    for read_only in (False, True):
        with database.session_scope(read_only=read_only) as session:
            assert shown(session, *LIMITS) == ["1min", "7s", "1min"]
            assert shown(session, "application_name") == ["the board"]


def test_limits_that_are_switched_off_are_the_servers_own(own_database: OwnDatabase):
    database = own_database(statement_timeout_s=None, idle_in_transaction_timeout_s=None)

    with database.session_scope() as session:
        assert shown(session, *LIMITS) == ["0", "0", "0"]


def test_what_the_url_says_of_limits_wins(own_database: OwnDatabase):
    """The server takes the last of two; the reader stays a reader."""
    database = own_database("?options=-c%20statement_timeout%3D1234&application_name=mine")

    for read_only in (False, True):
        with database.session_scope(read_only=read_only) as session:
            assert shown(session, *LIMITS) == ["1234ms", "0", "1min"]
            assert shown(session, "application_name", "default_transaction_read_only") == [
                "mine",
                "on" if read_only else "off",
            ]


def test_a_reader_cannot_write_and_says_what_to_do(database: Database, sql: RawSql):
    create_counters(sql)

    with (
        pytest.raises(ReadOnlyViolation, match=r"GET Some: .*reader.*in_new_transaction"),
        database.session_scope(label="GET Some", read_only=True) as session,
    ):
        add(session)

    assert value(sql) == 0


def test_a_writer_is_not_told_that_it_is_a_reader(database: Database, sql: RawSql):
    """The same code comes from a primary that has become a standby: that is the database's affair."""
    create_counters(sql)

    with pytest.raises(Unavailable, match="no writes") as caught, database.session_scope() as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        add(session)

    assert not isinstance(caught.value, ReadOnlyViolation)


def test_a_read_is_one_round_trip_and_a_write_is_a_transaction(
    database: Database, sql: RawSql, postgres_cluster: PostgresCluster
):
    """By the server's own log."""
    create_counters(sql)
    [name] = sql("SELECT current_database() AS name")
    sql(f"ALTER DATABASE \"{name['name']}\" SET log_statement = 'all'")
    with database.session_scope(read_only=True) as session:  # the driver's and the dialect's first questions
        read(session)
    with database.session_scope() as session:
        read(session)
    already = len(postgres_cluster.log_text())

    with database.session_scope(read_only=True) as session:
        read(session)
    of_the_reader = postgres_cluster.log_text()[already:]
    already += len(of_the_reader)
    with database.session_scope() as session:
        add(session)
    of_the_writer = postgres_cluster.log_text()[already:]

    assert "SELECT n FROM counters" in of_the_reader
    for word in ("BEGIN", "COMMIT", "ROLLBACK"):
        assert word not in of_the_reader
    assert of_the_writer.index("BEGIN") < of_the_writer.index("UPDATE") < of_the_writer.index("COMMIT")


def test_a_reader_sees_what_was_committed_since_and_a_snapshot_does_not(
    database: Database, sql: RawSql, io_loop: IOLoop
):
    create_counters(sql)

    async def look(*, snapshot: bool) -> tuple[int, int]:
        async with database.unit_of_work(read_only=True, snapshot=snapshot) as unit:
            before = await unit.run(read, unit.session)
            sql("UPDATE counters SET n = n + 1")
            unit.session.expire_all()
            return before, await unit.run(read, unit.session)

    assert io_loop.run_sync(lambda: look(snapshot=False)) == (0, 1)
    assert io_loop.run_sync(lambda: look(snapshot=True)) == (1, 1)
    assert io_loop.run_sync(lambda: look(snapshot=False)) == (2, 3), "the same connection, as before"


def test_a_snapshot_cannot_write_either(database: Database, sql: RawSql, io_loop: IOLoop):
    create_counters(sql)

    async def write() -> None:
        async with database.unit_of_work(read_only=True, snapshot=True) as unit:
            await unit.run(add, unit.session)

    with pytest.raises(ReadOnlyViolation):
        io_loop.run_sync(write)
    assert value(sql) == 0


def test_a_refusal_names_its_constraint_and_shows_no_data(database: Database, sql: RawSql):
    sql("CREATE TABLE people (email text CONSTRAINT one_person UNIQUE)")
    sql("INSERT INTO people VALUES ('ada@example.org')")

    with pytest.raises(Conflict) as caught, database.session_scope() as session:
        session.execute(text("INSERT INTO people VALUES (:email)"), {"email": "ada@example.org"})

    assert caught.value.constraint == "one_person"
    for word in ("ada", "INSERT", "DETAIL", "people", "one_person"):
        assert word not in str(caught.value)


def failing(statement: str) -> Callable[[Session], object]:
    return lambda session: session.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "expected", "words"),
    [
        ("SELEC 1", StatementFailed, "42601"),
        ("SELECT 1 FROM nowhere", StatementFailed, "42P01"),
        ("SELECT 1/0", StatementFailed, "22012"),
        ("DO $$ BEGIN RAISE serialization_failure; END $$", RetryableConflict, "serialization"),
        ("DO $$ BEGIN RAISE deadlock_detected; END $$", RetryableConflict, "deadlock"),
        ("DO $$ BEGIN RAISE check_violation; END $$", Conflict, "does not allow"),
        ("DO $$ BEGIN RAISE lock_not_available; END $$", Unavailable, "lock"),
        ("DO $$ BEGIN RAISE query_canceled; END $$", DeadlinePassed, "time"),
        ("DO $$ BEGIN RAISE disk_full; END $$", Unreachable, "cannot be worked with"),
        ("DO $$ BEGIN RAISE io_error; END $$", Unreachable, "cannot be worked with"),
        ("DO $$ BEGIN RAISE too_many_connections; END $$", Unreachable, "cannot be worked with"),
        ("DO $$ BEGIN RAISE crash_shutdown; END $$", Unreachable, "cannot be worked with"),
    ],
)
def test_errors_are_told_apart_by_their_codes(
    database: Database, statement: str, expected: type[DatabaseError], words: str
):
    with pytest.raises(expected, match=words) as caught, database.session_scope() as session:
        failing(statement)(session)

    assert "SELEC" not in str(caught.value)
    with database.session_scope() as session:
        assert session.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize(
    "error",
    [
        psycopg.InternalError("got no result from the query"),
        psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
    ],
)
def test_an_answer_that_broke_off_is_the_links_fault_and_not_the_programs(error: Exception):
    """What the drivers say then has no code; seen where backends were terminated under load."""
    dialect = backend_for(parse_url("postgresql+psycopg2://h/d"))

    assert isinstance(dialect.translate(DBAPIError("SELECT 1", None, error)), Unreachable)


def test_a_statement_has_a_limit_and_so_has_the_wait_for_a_lock(own_database: OwnDatabase, sql: RawSql):
    create_counters(sql)
    database = own_database(statement_timeout_s=0.3, lock_timeout_s=0.1)

    with pytest.raises(DeadlinePassed), database.session_scope() as session:
        sleep(session, 30)
    with sql.connect() as other, other.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE counters SET n = 5")
        with pytest.raises(Unavailable, match="lock"), database.session_scope() as session:
            add(session)

    assert value(sql) == 0


def test_a_transaction_that_idles_is_ended_and_its_connection_replaced(
    own_database: OwnDatabase, sql: RawSql
):
    """Its locks would stop all others. The next unit of work has a connection that lives."""
    create_counters(sql)
    database = own_database(idle_in_transaction_timeout_s=0.1, pool_size=1)

    with pytest.raises(DatabaseError), database.session_scope() as session:
        add(session)
        time.sleep(0.3)
        read(session)
    with database.session_scope() as session:
        add(session, 10)

    assert value(sql) == 10


def test_a_session_that_idles_is_ended_by_the_server_and_the_next_unit_of_work_does_not_notice(
    own_database: OwnDatabase, sql: RawSql
):
    """The backstop for connections that a process has forgotten: both roles have it."""
    database = own_database(idle_session_timeout_s=0.2, pool_size=1, pool_ping_after_s=0)
    pid = text("SELECT pg_backend_pid()")

    def is_gone(number: int) -> bool:
        return sql(f"SELECT pid FROM pg_stat_activity WHERE pid = {number}") == []

    for read_only in (False, True):
        with database.session_scope(read_only=read_only) as session:
            before = session.scalar(pid)
        assert wait_until(functools.partial(is_gone, before), timeout_s=10)
        with database.session_scope(read_only=read_only) as session:
            assert session.scalar(pid) != before


def test_a_deadlock_names_one_to_run_again_and_lets_the_other_through(own_database: OwnDatabase, sql: RawSql):
    create_counters(sql)
    sql("INSERT INTO counters VALUES (2, 0)")
    [name] = sql("SELECT current_database() AS name")
    sql(f"ALTER DATABASE \"{name['name']}\" SET deadlock_timeout = '50ms'")
    database = own_database()
    both = threading.Barrier(2, timeout=5)
    outcomes: list[str] = []

    def work(first: int, second: int) -> None:
        try:
            with database.session_scope() as session:
                add(session, 1, first)
                both.wait()
                add(session, 1, second)
            outcomes.append("kept")
        except RetryableConflict as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=work, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(outcomes) == ["deadlock", "kept"]
    assert (value(sql, 1), value(sql, 2)) == (1, 1)


def test_an_aborted_transaction_is_not_called_kept(database: Database, sql: RawSql):
    """PostgreSQL answers COMMIT in it with ROLLBACK and no error, and psycopg2 says nothing."""
    create_counters(sql)

    with pytest.raises(TransactionAborted, match="begin_nested"), database.session_scope() as session:
        add(session)
        with pytest.raises(Exception, match="division"):
            session.execute(text("SELECT 1/0"))

    assert value(sql) == 0


def test_an_error_inside_a_savepoint_leaves_the_rest(database: Database, sql: RawSql):
    create_counters(sql)

    with database.session_scope() as session:
        add(session)
        with pytest.raises(Exception, match="division"), session.begin_nested():
            session.execute(text("SELECT 1/0"))
        add(session, 10)

    assert value(sql) == 11


@pytest.mark.parametrize("refusal", ["unique", "serialization", "cancelled"])
def test_what_the_server_refuses_at_commit_is_undone_for_certain(
    own_database: OwnDatabase, sql: RawSql, refusal: str
):
    """It has answered, so nothing is unknown, not even where what COMMIT was about was cancelled."""
    create_counters(sql)
    what = {
        "unique": "RAISE unique_violation",
        "serialization": "RAISE serialization_failure",
        "cancelled": "PERFORM pg_sleep(20)",
    }[refusal]
    sql(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NULL; END $$")
    sql(
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    database = own_database()
    unit = UnitOfWork(database.writer.engine, database.backend, label="POST Some")
    add(unit.session)
    if refusal == "cancelled":
        threading.Thread(target=cancel_commit, args=(sql,)).start()

    expected = {"unique": Conflict, "serialization": RetryableConflict, "cancelled": DeadlinePassed}[refusal]
    with pytest.raises(expected):
        unit.settle(keep=True)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert value(sql) == 0


def test_a_deferred_foreign_key_speaks_at_commit(database: Database, sql: RawSql):
    create_families(sql)

    with pytest.raises(Conflict) as caught, database.session_scope() as session:
        orphan(session)

    assert caught.value.constraint == "children_parent"
    assert sql("SELECT * FROM children") == []


def test_a_connection_that_was_ended_between_two_statements_is_unreachable(
    own_database: OwnDatabase, sql: RawSql
):
    """Nothing was committed, that is certain; pre-ping finds the next unit a connection that lives."""
    create_counters(sql)
    database = own_database(pool_size=1)

    with pytest.raises(Unreachable), database.session_scope() as session:
        add(session)
        terminate_others(sql)
        add(session)
    with database.session_scope() as session:
        add(session, 10)

    assert value(sql) == 10


def test_an_ended_connection_whose_error_was_caught_is_not_called_kept(
    own_database: OwnDatabase, sql: RawSql
):
    create_counters(sql)
    database = own_database(pool_size=1)

    with pytest.raises(TransactionAborted), database.session_scope() as session:
        add(session)
        terminate_others(sql)
        with pytest.raises(Exception, match=r"terminating|closed"):
            add(session)

    assert value(sql) == 0


@pytest.mark.parametrize(("ping_after_s", "retries"), [(0.0, True), (60.0, False)])
def test_connections_that_were_ended_while_idle_cost_no_unit_of_work(
    database_settings: DatabaseSettings,
    sql: RawSql,
    io_loop: IOLoop,
    ping_after_s: float,
    retries: bool,
):
    """Pre-ping, after a rest, or before work that would not be done again: a restart is not its problem."""
    database = Database(database_settings.model_copy(update={"pool_ping_after_s": ping_after_s}))
    create_counters(sql)

    async def read_all() -> None:
        for read_only in (False, True):
            async with database.unit_of_work(read_only=read_only, retries=retries) as unit:
                await unit.run(read, unit.session)
            await asyncio.to_thread(scope, read_only)

    def scope(read_only: bool) -> None:
        with database.session_scope(read_only=read_only) as session:
            read(session)

    io_loop.run_sync(read_all)
    terminate_others(sql)
    io_loop.run_sync(read_all)
    terminate_others(sql)
    for read_only in (False, True):
        scope(read_only)

    io_loop.run_sync(database.close)


def test_a_commit_whose_connection_was_ended_is_unknown(database: Database, sql: RawSql):
    """A backend told to stop may have committed already, as one that waits for a standby has: 57P01."""
    create_counters(sql)
    unit = UnitOfWork(database.writer.engine, database.backend, label="POST Some")
    add(unit.session)
    terminate_others(sql)

    with pytest.raises(OutcomeUnknown):
        unit.settle(keep=True)

    assert unit.outcome is Outcome.UNKNOWN
    with database.session_scope() as session:
        add(session, 10)
    assert value(sql) == 10


def test_a_server_that_is_down_is_unreachable_and_found_again(
    own_postgres_cluster: Callable[..., PostgresCluster], io_loop: IOLoop
):
    """Down at connect, gone in the middle of the pool's life, and back on the same port."""
    cluster = own_postgres_cluster()
    database = Database(DatabaseSettings(url=cluster.url_for("postgres"), commit_witness=False))

    def ask() -> object:
        with database.session_scope() as session:
            return session.scalar(text("SELECT 1"))

    assert ask() == 1
    cluster.kill()
    for _ in range(2):
        with pytest.raises(Unreachable) as caught:
            ask()
        assert str(cluster.port) not in str(caught.value)
    cluster.start()

    assert ask() == 1
    io_loop.run_sync(database.close)


def test_a_full_server_is_unreachable(
    own_postgres_cluster: Callable[..., PostgresCluster], io_loop: IOLoop, expect_log: ExpectLog
):
    """Too many clients: psycopg2 gives no code for what happens while it connects."""
    cluster = own_postgres_cluster(max_connections=5, options={"superuser_reserved_connections": "0"})
    database = Database(DatabaseSettings(url=cluster.url_for("postgres"), pool_size=10))
    opened: list[object] = []
    with pytest.raises(Unreachable) as caught, database.writer.engine.connect():
        raw = [database.writer.engine.connect() for _ in range(4)]
        opened.extend(raw)
        with database.session_scope() as session:
            session.execute(text("SELECT 1"))

    assert "clients" not in str(caught.value)
    for connection in raw:
        connection.close()
    io_loop.run_sync(database.close)


def test_what_was_set_for_a_transaction_ends_with_it(own_database: OwnDatabase, sql: RawSql):
    """The next user of the connection begins where a new one would."""
    database = own_database(pool_size=1)
    with database.session_scope() as session:
        session.execute(text("SET LOCAL work_mem = '5MB'"))
    with pytest.raises(KeyError), database.session_scope() as session:
        session.execute(text("SET work_mem = '6MB'"))
        raise KeyError

    with database.session_scope() as session:
        assert shown(session, "work_mem") == ["4MB"]
    assert wait_until(lambda: not sql("SELECT 1 AS x FROM pg_stat_activity WHERE state LIKE 'idle in%'"))


@pytest.mark.parametrize("statement", ["BEGIN", "SET default_transaction_read_only = off"])
def test_what_a_reader_changes_of_its_connection_is_undone_for_the_next(
    own_database: OwnDatabase, sql: RawSql, statement: str
):
    """Not a transaction of its own that has failed since, and not the leave to write. Nor by the driver."""
    create_counters(sql)
    database = own_database(pool_size=1)
    with pytest.raises(StatementFailed), database.session_scope(read_only=True) as session:
        with closing(session.connection().connection.cursor()) as cursor:
            cursor.execute(statement)
        session.execute(text("SELECT 1/0"))

    with database.session_scope(read_only=True) as session:
        assert read(session) == 0
    with pytest.raises(ReadOnlyViolation), database.session_scope(read_only=True) as session:
        add(session)


def test_a_reader_that_changes_nothing_keeps_its_connection(own_database: OwnDatabase, sql: RawSql):
    create_counters(sql)
    database = own_database(pool_size=1)

    def backend_of(session: Session) -> int:
        pid: int = session.scalar(text("SELECT pg_backend_pid()"))
        return pid

    pids = set()
    for _ in range(3):
        with database.session_scope(read_only=True) as session:
            pids.add(backend_of(session))

    assert len(pids) == 1


@pytest.mark.parametrize("statement", ["ROLLBACK", "COMMIT"])
def test_a_statement_that_ends_the_transaction_is_refused(database: Database, sql: RawSql, statement: str):
    """What comes after it would be kept alone."""
    create_counters(sql)

    with (
        pytest.raises(SessionNotOwned, match="POST Some"),
        database.session_scope(label="POST Some") as session,
    ):
        add(session)
        session.execute(text(statement))

    assert value(sql) == 0


def test_a_writer_in_autocommit_is_refused(database: Database, sql: RawSql):
    """Nothing it does could be undone."""
    create_counters(sql)

    with pytest.raises(SessionNotOwned, match="AUTOCOMMIT"), database.session_scope() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        add(session)

    assert value(sql) == 0


def test_a_writer_that_the_driver_was_told_to_autocommit_is_noticed(own_database: OwnDatabase, sql: RawSql):
    """What was written is kept, and the next unit of work has a transaction."""
    create_counters(sql)
    database = own_database(pool_size=1)

    def commit_each(connection: Any, *rest: object) -> None:
        connection.autocommit = True

    event.listen(database.writer.engine, "checkout", commit_each, once=True)
    with pytest.raises(TransactionEnded), database.session_scope() as session:
        add(session)

    with pytest.raises(KeyError), database.session_scope() as session:
        add(session, 10)
        raise KeyError
    assert value(sql) == 1
