"""session_scope(): a session for scripts and jobs, in the same queue as the requests of the process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.pool import QueuePool
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database
from db.errors import (
    Conflict,
    DeadlinePassed,
    NestedUnitOfWork,
    OutcomeUnknown,
    OutsideRun,
    PoolTimeout,
    SessionSettled,
)
from tests.db.counters import add, create_counters, create_families, orphan, read, sleep, value
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.slots import all_slots
from tests.fixtures.waiting import wait_until

every_driver = pytest.mark.every_driver


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One slot for writers on either database, and short timeouts."""
    return DatabaseSettings(url=database_url, pool_size=1, reader_pool_size=2, pool_timeout_s=0.3)


def is_whole(database: Database) -> bool:
    endpoints = (database.writer, database.reader)
    pools = [endpoint.engine.pool for endpoint in endpoints]
    return all(endpoint.limiter.taken == 0 for endpoint in endpoints) and all(
        isinstance(pool, QueuePool) and pool.checkedout() == 0 for pool in pools
    )


def test_what_is_done_is_kept_at_the_end(database: Database, sql: RawSql):
    create_counters(sql)

    with database.session_scope() as session:
        add(session)
        assert value(sql) == 0

    assert value(sql) == 1
    assert is_whole(database)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_is_raised_undoes_it_and_travels_on(
    database: Database, sql: RawSql, error: type[BaseException]
):
    create_counters(sql)

    with pytest.raises(error), database.session_scope() as session:
        add(session)
        raise error

    assert value(sql) == 0
    assert is_whole(database)


def test_ctrl_c_in_the_middle_of_it_undoes_it(database: Database, sql: RawSql):
    """A real signal, in a pause between statements."""
    create_counters(sql)
    me = threading.get_ident()

    with pytest.raises(KeyboardInterrupt), database.session_scope() as session:
        add(session)
        threading.Timer(0.05, signal.pthread_kill, [me, signal.SIGINT]).start()
        time.sleep(5)

    assert value(sql) == 0
    assert is_whole(database)


def test_ctrl_c_in_the_queue_leaves_nothing_behind(database: Database, sql: RawSql):
    create_counters(sql)
    me = threading.get_ident()
    database.settings = database.settings.model_copy(update={"pool_timeout_s": 5.0})
    held = all_slots(database.writer.limiter)
    threading.Timer(0.05, signal.pthread_kill, [me, signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt), database.session_scope() as session:
        add(session)
    held.close()

    with database.session_scope() as session:
        add(session)
    assert value(sql) == 1
    assert is_whole(database)


def test_a_drivers_error_comes_translated_at_a_statement_and_at_the_end(database: Database, sql: RawSql):
    create_families(sql)
    sql("INSERT INTO parents VALUES (1)")

    with pytest.raises(Conflict), database.session_scope() as session:
        session.execute(text("INSERT INTO parents VALUES (1)"))
    with pytest.raises(Conflict), database.session_scope() as session:
        orphan(session)

    assert is_whole(database)


def test_the_session_ends_with_its_block(database: Database, sql: RawSql):
    create_counters(sql)
    with database.session_scope(label="nightly job") as session:
        read(session)

    with pytest.raises(SessionSettled, match="nightly job"):
        read(session)


def test_a_time_limit_undoes_what_comes_too_late(database: Database, sql: RawSql):
    create_counters(sql)

    with pytest.raises(DeadlinePassed), database.session_scope(timeout_s=0.1) as session:
        add(session)
        time.sleep(0.15)

    assert value(sql) == 0
    assert is_whole(database)


@every_driver
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
def test_a_statement_that_runs_at_its_time_limit_is_cancelled(
    database: Database, sql: RawSql, read_only: bool
):
    """As at a request's deadline; and the next scope has a connection that works."""
    create_counters(sql)

    began = time.monotonic()
    with (
        pytest.raises(DeadlinePassed),
        database.session_scope(read_only=read_only, timeout_s=0.3) as session,
    ):
        if not read_only:
            add(session)
        sleep(session, 60)
    took_s = time.monotonic() - began

    assert 0.3 <= took_s < 10
    assert value(sql) == 0
    assert is_whole(database)
    with database.session_scope() as session:
        add(session)
    with database.session_scope(read_only=True) as session:
        assert read(session) == 1


@pytest.mark.parametrize("backend", ["postgresql", "postgresql+asyncpg"], indirect=True)
def test_the_database_itself_ends_the_statement_at_the_time_limit(database: Database, sql: RawSql):
    """It goes on nowhere, and holds no lock."""
    create_counters(sql)

    with pytest.raises(DeadlinePassed), database.session_scope(timeout_s=0.2) as session:
        add(session)
        sleep(session, 60)

    running = sql(
        "SELECT query FROM pg_stat_activity"
        " WHERE state <> 'idle' AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert running == []
    sql("UPDATE counters SET n = 5")
    assert value(sql) == 5


def test_a_program_that_swallows_the_cancel_keeps_nothing(database: Database, sql: RawSql):
    create_counters(sql)

    with pytest.raises(DeadlinePassed), database.session_scope(timeout_s=0.2) as session:
        add(session)
        with contextlib.suppress(Exception):
            sleep(session, 60)

    assert value(sql) == 0
    assert is_whole(database)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_commit_that_is_still_running_at_the_time_limit_is_cut(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """A deferred trigger sleeps in COMMIT, which is never cancelled; what became of it cannot be told yet.

    Its slot stays taken as long as the server is at it: another connection would be one more there.
    """
    create_counters(sql)
    sql(
        "CREATE FUNCTION linger() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$"
        " LANGUAGE plpgsql"
    )
    sql(
        "CREATE CONSTRAINT TRIGGER lingers AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION linger()"
    )

    began = time.monotonic()
    with (
        expect_log("onfinish.db", "nightly job: it did not end in time; its connection is cut"),
        pytest.raises(OutcomeUnknown),
        database.session_scope(label="nightly job", timeout_s=0.3) as session,
    ):
        add(session)

    assert time.monotonic() - began < 2.5
    assert not is_whole(database)
    assert wait_until(lambda: is_whole(database), timeout_s=10)


def test_scopes_one_after_the_other_share_the_thread_that_waits_for_their_time_limits(
    database: Database, sql: RawSql
):
    create_counters(sql)

    for _ in range(20):
        with database.session_scope(timeout_s=30) as session:
            add(session)

    assert value(sql) == 20
    assert sum(thread.name.startswith("onfinish-deadline") for thread in threading.enumerate()) <= 10


def test_a_second_one_inside_of_it_is_refused(database: Database, sql: RawSql):
    """With one slot it would wait for itself. The outer one goes on."""
    create_counters(sql)

    with database.session_scope(label="outer") as session:
        add(session)
        for read_only in (False, True):
            with (
                pytest.raises(NestedUnitOfWork, match=r"(?s)inner.*outer"),
                database.session_scope(label="inner", read_only=read_only),
            ):
                raise AssertionError("not reached")

    assert value(sql) == 1
    with database.session_scope() as session:
        add(session)
    assert value(sql) == 2


def test_it_would_stop_the_event_loop_and_says_so(database: Database, io_loop: IOLoop):
    async def on_the_loop() -> None:
        with database.session_scope():
            raise AssertionError("not reached")

    with pytest.raises(OutsideRun, match=r"async with database\.unit_of_work\(\)"):
        io_loop.run_sync(on_the_loop)
    assert is_whole(database)


def test_in_a_thread_beside_the_loop_it_is_welcome(database: Database, sql: RawSql, io_loop: IOLoop):
    create_counters(sql)

    def job() -> None:
        with database.session_scope() as session:
            add(session)

    io_loop.run_sync(lambda: asyncio.to_thread(job))

    assert value(sql) == 1


def test_the_wait_for_a_slot_has_a_limit(database: Database):
    with ThreadPoolExecutor(1) as threads, database.session_scope():

        def job() -> tuple[float, float]:
            began, began_here = time.monotonic(), own_time()
            with pytest.raises(PoolTimeout), database.session_scope():
                raise AssertionError("not reached")
            return time.monotonic() - began, own_time() - began_here

        waited_s, waited_here_s = threads.submit(job).result()

    assert waited_s > 0.25
    assert waited_here_s < 0.8


def test_a_job_that_is_one_too_many_in_the_queue_is_refused_at_once(database: Database):
    """The bound on the queue's length counts threads as it counts requests."""
    database.settings = database.settings.model_copy(update={"pool_timeout_s": 20.0})
    database.writer.limiter.waiting_max = 0

    def job() -> None:
        with database.session_scope():
            raise AssertionError("not reached")

    began = own_time()
    with (
        ThreadPoolExecutor(1) as threads,
        database.session_scope(),
        pytest.raises(PoolTimeout, match="0 callers wait for one already"),
    ):
        threads.submit(job).result()

    assert own_time() - began < 5
    assert is_whole(database)


def test_jobs_and_requests_stand_in_one_queue(database: Database, sql: RawSql, io_loop: IOLoop):
    """First come, first served, from threads and tasks alike."""
    create_counters(sql)
    database.settings = database.settings.model_copy(update={"pool_timeout_s": 5.0})
    served: list[str] = []

    def job() -> None:
        with database.session_scope() as session:
            add(session)
            served.append("job")

    async def request() -> None:
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
            served.append("request")

    async def all_of_them() -> None:
        loop = asyncio.get_running_loop()
        limiter = database.writer.limiter
        held = all_slots(limiter)
        with ThreadPoolExecutor(3) as threads:
            waiters: list[asyncio.Future[None]] = []
            for number in range(6):
                if number % 2:
                    waiters.append(loop.run_in_executor(threads, job))
                else:
                    waiters.append(asyncio.ensure_future(request()))
                while limiter.waiting <= number:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.001)
            held.close()
            await asyncio.gather(*waiters)

    io_loop.run_sync(all_of_them)

    assert served == ["request", "job"] * 3
    assert value(sql) == 6


def test_readers_go_on_beside_a_writer(database: Database, sql: RawSql):
    create_counters(sql)

    with ThreadPoolExecutor(1) as threads, database.session_scope() as session:
        add(session)

        def job() -> int:
            with database.session_scope(read_only=True) as reading:
                return read(reading)

        assert threads.submit(job).result(5) == 0


def test_a_scope_that_is_dropped_is_undone(database: Database, sql: RawSql):
    """Entered by hand and forgotten: the generator's end is its end."""
    create_counters(sql)

    def forgetful() -> None:
        scope = database.session_scope()
        add(scope.__enter__())

    forgetful()

    assert wait_until(lambda: is_whole(database))
    assert value(sql) == 0
