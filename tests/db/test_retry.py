"""run_in_transaction(): work that the database refuses as a conflict is done again, for scripts and jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, RetryPolicy
from db.errors import (
    ConnectionLost,
    DatabaseError,
    DeadlinePassed,
    OutcomeUnknown,
    OutsideRun,
    ReadOnlyViolation,
    RetryableConflict,
    SessionSettled,
    TransactionEnded,
    UsageError,
)
from db.observer import Observer
from tests.db.counters import add, create_counters, read, value
from tests.fixtures.databases import RawSql

ON_POSTGRESQL = ["postgresql"]
ON_SQLITE = ["sqlite"]


class Retries(Observer):
    """Keeps why something was retried."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def retries(self, reason: str) -> None:
        self.reasons.append(reason)


class Crowded(Exception):
    """An error of an application's own."""


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    return DatabaseSettings(url=database_url, pool_size=3, busy_timeout_s=0.1)


@pytest.fixture
def retries(database: Database) -> Retries:
    observer = Retries()
    database.observer = observer
    return observer


def together(*jobs: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [future.result(30) for future in [threads.submit(job) for job in jobs]]


class Meeting:
    """Work of two threads that meets in its first attempt."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self._met: set[int] = set()

    def __call__(self) -> None:
        me = threading.get_ident()
        if me not in self._met:
            self._met.add(me)
            self._barrier.wait(10)


# -- real conflicts


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
def test_what_is_refused_as_a_serialization_failure_is_done_again(
    database: Database, sql: RawSql, retries: Retries
):
    """Each adds to one counter what it has read in the other: one after the other, and not from one state."""
    create_counters(sql)
    sql("INSERT INTO counters VALUES (2, 0)")
    meet = Meeting()

    def count(session: Session, *, seen: int, counter: int) -> int:
        n = read(session, seen)
        meet()
        add(session, n + 1, counter)
        return n

    def job(seen: int, counter: int) -> Callable[[], int]:
        return lambda: database.run_in_transaction(
            count, seen=seen, counter=counter, isolation="SERIALIZABLE", label=f"counting {counter}"
        )

    answers = together(job(1, 2), job(2, 1))

    assert sorted(map(str, answers)) == ["0", "1"]
    assert {value(sql, 1), value(sql, 2)} == {1, 2}
    assert retries.reasons == ["serialization"]


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
def test_what_loses_a_deadlock_is_done_again(database: Database, sql: RawSql, retries: Retries):
    create_counters(sql)
    sql("INSERT INTO counters VALUES (2, 0)")
    meet = Meeting()

    def count(session: Session, first: int, second: int) -> None:
        session.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
        add(session, counter=first)
        meet()
        add(session, counter=second)

    together(
        lambda: database.run_in_transaction(count, 1, 2), lambda: database.run_in_transaction(count, 2, 1)
    )

    assert (value(sql, 1), value(sql, 2)) == (2, 2)
    assert retries.reasons == ["deadlock"]


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
def test_work_whose_connection_is_lost_is_done_again(database: Database, sql: RawSql, retries: Retries):
    create_counters(sql)
    pids: list[int] = []

    def count(session: Session) -> None:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        add(session)
        if not pids:
            sql("SELECT pg_terminate_backend(:pid)", pid=pid)
        pids.append(pid)
        add(session)

    database.run_in_transaction(count)

    assert value(sql) == 2
    assert len(set(pids)) == 2
    assert retries.reasons == ["connection lost"]


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
def test_a_busy_file_is_tried_again(
    database: Database, database_settings: DatabaseSettings, sql: RawSql, retries: Retries
):
    """Another process, here another `Database`, holds the write lock for longer than the busy timeout."""
    create_counters(sql)
    other = Database(database_settings)

    with ThreadPoolExecutor(1) as threads:
        with other.session_scope() as session:
            add(session)
            job = threads.submit(database.run_in_transaction, add, attempts=20)
            while not retries.reasons:
                time.sleep(0.01)
        job.result(10)

    assert value(sql) == 2
    assert set(retries.reasons) == {"busy"}
    other.dispose()


# -- the policy


def test_each_attempt_has_a_session_of_its_own_and_the_last_one_is_kept_alone(
    database: Database, sql: RawSql, retries: Retries
):
    create_counters(sql)
    sessions: list[Session] = []

    def work(session: Session, amount: int, *, counter: int) -> str:
        sessions.append(session)
        add(session, amount, counter)
        if len(sessions) < 3:
            raise RetryableConflict("deadlock")
        return "done"

    answer = database.run_in_transaction(work, 5, counter=1)

    assert answer == "done"
    assert value(sql) == 5
    assert len({id(session) for session in sessions}) == 3
    for session in sessions:
        with pytest.raises(SessionSettled, match="work"):
            read(session)
    assert retries.reasons == ["deadlock", "deadlock"]


@pytest.mark.parametrize(("attempts", "calls"), [(None, 3), (1, 1), (5, 5)])
def test_after_the_last_attempt_the_conflict_is_raised(
    database: Database, sql: RawSql, retries: Retries, attempts: int | None, calls: int
):
    create_counters(sql)
    called = 0

    def work(session: Session) -> None:
        nonlocal called
        called += 1
        add(session)
        raise ConnectionLost

    with pytest.raises(ConnectionLost):
        database.run_in_transaction(work, attempts=attempts)

    assert called == calls
    assert len(retries.reasons) == calls - 1
    assert value(sql) == 0
    assert database.writer.limiter.taken == 0


def test_an_error_of_the_applications_own_is_retried_where_it_is_named(database: Database, retries: Retries):
    calls: list[int] = []

    def work(session: Session) -> None:
        calls.append(1)
        raise Crowded

    with pytest.raises(Crowded):
        database.run_in_transaction(work)
    assert len(calls) == 1
    with pytest.raises(Crowded):
        database.run_in_transaction(work, retry_on=(Crowded,))
    assert len(calls) == 1 + 3
    database.retry_policy = RetryPolicy(2, errors=(*RetryPolicy.errors, Crowded))
    with pytest.raises(Crowded):
        database.run_in_transaction(work)

    assert len(calls) == 1 + 3 + 2
    assert retries.reasons == ["Crowded"] * 3


@pytest.mark.parametrize("error", [OutcomeUnknown(), TransactionEnded("by another")])
def test_what_may_have_been_applied_is_never_retried(
    database: Database, retries: Retries, error: DatabaseError
):
    calls: list[int] = []

    def work(session: Session) -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        database.run_in_transaction(work, retry_on=(Exception,))

    assert len(calls) == 1
    assert not retries.reasons


def test_ctrl_c_is_never_retried(database: Database, retries: Retries):
    def work(session: Session) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.run_in_transaction(work, retry_on=(BaseException,))

    assert not retries.reasons


def test_the_time_limit_is_one_for_all_attempts(database: Database, sql: RawSql, retries: Retries):
    create_counters(sql)

    def work(session: Session) -> None:
        time.sleep(0.1)
        add(session)
        raise RetryableConflict("deadlock")

    began = time.monotonic()
    with pytest.raises((RetryableConflict, DeadlinePassed)):
        database.run_in_transaction(work, attempts=1000, timeout_s=0.35)

    assert time.monotonic() - began < 5
    assert 1 <= len(retries.reasons) <= 3
    assert value(sql) == 0


def test_a_pause_is_random_and_grows_with_the_attempts():
    policy = RetryPolicy(backoff_s=0.5)

    pauses = {attempt: [policy.pause_s(attempt) for _ in range(200)] for attempt in (1, 2, 3)}

    for attempt, drawn in pauses.items():
        longest = 0.5 * 2**attempt
        assert 0 <= min(drawn) < longest / 4
        assert longest * 3 / 4 < max(drawn) <= longest


def test_a_conflict_of_certification_has_more_attempts_than_another():
    policy = RetryPolicy(3)
    certification, deadlock = RetryableConflict("certification"), RetryableConflict("deadlock")

    assert (policy.attempts_for(certification), policy.attempts_for(deadlock)) == (12, 3)
    assert RetryPolicy(20).attempts_for(certification) == 20
    assert RetryPolicy(1).attempts_for(certification) == 1  # retries are off
    assert RetryPolicy(3, certification_attempts_max=5).attempts_for(certification) == 5
    assert max(policy.pause_s(12) for _ in range(200)) <= 0.01 * 2**5


@pytest.mark.parametrize(("attempts", "made"), [(None, 12), (2, 2), (1, 1)])
def test_attempts_that_are_given_are_all_there_are(database: Database, attempts: int | None, made: int):
    calls: list[int] = []

    def work(session: Session) -> None:
        calls.append(1)
        raise RetryableConflict("certification")

    database.retry_policy = RetryPolicy(backoff_s=0.0)
    with pytest.raises(RetryableConflict):
        database.run_in_transaction(work, attempts=attempts)

    assert len(calls) == made


def test_between_attempts_it_holds_no_slot(database: Database, sql: RawSql):
    create_counters(sql)
    database.retry_policy = RetryPolicy(2, backoff_s=0.5)
    taken: list[int] = []

    class Looking(Observer):
        def retries(self, reason: str) -> None:
            taken.append(database.writer.limiter.taken)

    database.observer = Looking()

    def work(session: Session) -> None:
        add(session)
        raise RetryableConflict("deadlock")

    with pytest.raises(RetryableConflict):
        database.run_in_transaction(work)

    assert taken == [0]


def test_a_policy_without_an_attempt_is_refused(database: Database):
    with pytest.raises(ValueError, match=r"attempts_max.*1 or more: 0"):
        database.run_in_transaction(read, attempts=0)


def test_the_policy_is_that_of_the_settings(database_settings: DatabaseSettings):
    database = Database(database_settings.model_copy(update={"attempts_max": 7}))

    assert database.retry_policy == RetryPolicy(attempts_max=7)
    database.dispose()


def test_on_the_event_loop_it_is_refused(database: Database, io_loop: IOLoop):
    called: list[Session] = []

    async def on_the_loop() -> None:
        database.run_in_transaction(called.append, retry_on=(DatabaseError,))

    with pytest.raises(OutsideRun, match=r"run_in_transaction\(\).*async with database\.unit_of_work\(\)"):
        io_loop.run_sync(on_the_loop)
    assert not called


def test_an_async_function_is_refused(database: Database):
    async def work(session: Session) -> None:
        """Would never run."""

    with pytest.raises(UsageError, match=r"work is an async function"):
        database.run_in_transaction(work)  # type: ignore[unused-coroutine]  # it never runs


def test_read_only_runs_on_the_reader(database: Database, sql: RawSql):
    create_counters(sql)

    assert database.run_in_transaction(read, read_only=True) == 0
    with pytest.raises(ReadOnlyViolation):
        database.run_in_transaction(add, read_only=True)
