"""Jobs: functions that a process calls every so many seconds, each run a unit of work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database, Jobs
from db.errors import RetryableConflict, UsageError
from tests.db.counters import add, create_counters, sleep, value
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver("postgresql+asyncpg")]

EVERY_S = 0.03


@asynccontextmanager
async def jobs_at(database: Database) -> AsyncIterator[Jobs]:
    jobs = Jobs(database)
    try:
        yield jobs
    finally:
        await jobs.stop()


async def becomes_true(condition: Callable[[], bool]) -> bool:
    """As `wait_until`, while the loop goes on."""
    return await asyncio.to_thread(wait_until, condition, timeout_s=10)


async def test_each_run_is_a_transaction_of_its_own(database: Database, sql: RawSql):
    """Committed when the function returns; with its arguments, again and again."""
    create_counters(sql)
    sessions: list[Session] = []

    def count(session: Session, word: str, *, number: int) -> None:
        assert (word, number) == ("x", 1)
        sessions.append(session)
        add(session)

    async with jobs_at(database) as jobs:
        jobs.every(EVERY_S, count, "x", number=1)
        assert await becomes_true(lambda: value(sql) >= 3)

    assert len({id(session) for session in sessions}) == len(sessions) == value(sql)


async def test_a_run_that_raises_is_undone_and_logged_and_the_next_run_happens(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """Whatever it raises; once, until it works again. A fault of the program has its traceback in the log."""
    create_counters(sql)
    turns: list[int] = []

    def fail(session: Session) -> None:
        add(session)
        turns.append(1)
        if len(turns) <= 3:
            raise SystemExit("not a job's to say") if len(turns) == 1 else KeyError("x")

    with (
        expect_log("onfinish.jobs", "fail: failed, will be retried: not a job's to say") as failed,
        expect_log("onfinish.jobs", "fail: works again", level=20) as mended,
    ):
        async with jobs_at(database) as jobs:
            jobs.every(EVERY_S, fail)
            assert await becomes_true(lambda: bool(mended))

    assert failed[0].exc_info
    assert len(failed) == 1
    assert value(sql) == len(turns) - 3


async def test_a_conflict_is_retried_as_the_databases_policy_has_it(database: Database, sql: RawSql):
    """In a new session, from the start, in the same run."""
    create_counters(sql)
    attempts: list[Session] = []

    def conflict_once(session: Session) -> None:
        add(session)
        attempts.append(session)
        if len(attempts) == 1:
            raise RetryableConflict("deadlock")

    async with jobs_at(database) as jobs:
        jobs.every(EVERY_S, conflict_once)
        assert await becomes_true(lambda: value(sql) >= 1)

    assert value(sql) == len(attempts) - 1


async def test_a_job_never_overlaps_itself_and_delays_no_other(database: Database):
    at_once: list[int] = []
    slow, quick = [0], [0]

    def long(session: Session) -> None:
        slow[0] += 1
        at_once.append(slow[0])
        jobs.stopping.wait(0.3)
        slow[0] -= 1

    def short() -> None:
        quick[0] += 1

    async with jobs_at(database) as jobs:
        jobs.every(EVERY_S, long)
        jobs.every(EVERY_S, short, in_transaction=False)
        assert await becomes_true(lambda: len(at_once) >= 2)
        assert quick[0] >= 5

    assert set(at_once) == {1}


async def test_processes_that_start_together_do_not_run_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The first run comes after half of the interval at least, later ones a tenth sooner or later."""
    waits: list[float] = []
    jobs = Jobs(database)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) > 40

    monkeypatch.setattr(jobs.stopping, "wait", wait)

    jobs.every(10, lambda: None, label="nothing", in_transaction=False)
    assert await becomes_true(lambda: len(waits) > 40)
    await jobs.stop()

    assert 5 <= waits[0] <= 10
    assert all(9 <= each <= 11 for each in waits[1:])
    assert len(set(waits)) > 30


async def test_a_run_that_takes_too_long_is_cancelled_and_undone(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """Its statement is cancelled in the database; the next run happens."""
    create_counters(sql)
    turns: list[float] = []

    def hang(session: Session) -> None:
        turns.append(time.monotonic())
        add(session)
        sleep(session, 10)

    with (
        expect_log("onfinish.jobs", "hang: failed, will be retried: the time for this request ran out"),
        expect_log("onfinish.db", "thrown away|cut", required=False),
    ):
        async with jobs_at(database) as jobs:
            jobs.every(EVERY_S, hang, timeout_s=0.2)
            assert await becomes_true(lambda: len(turns) >= 3)

    assert value(sql) == 0
    assert turns[1] - turns[0] < 3


@pytest.mark.parametrize("alone", [True, False])
async def test_alone_one_process_at_a_time_runs_a_job(
    alone: bool, database: Database, database_settings: DatabaseSettings, sql: RawSql
):
    """From its begin until its COMMIT. Another `Database` here is what another process has."""
    create_counters(sql)
    other = Database(database_settings)
    lock, running, most = threading.Lock(), [0], [0]
    ran: set[str] = set()

    def work(session: Session, process: str) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        ran.add(process)
        with lock:
            running[0] -= 1
        if process == "first":
            add(session)

    async with jobs_at(database) as first, jobs_at(other) as second:
        first.every(0.01, work, "first", label="work", alone=alone)
        second.every(0.01, work, "second", label="work", alone=alone)
        assert await becomes_true(lambda: ran == {"first", "second"} and value(sql) >= 5)
        assert alone or await becomes_true(lambda: most[0] == 2)
    await other.close()

    assert most[0] == (1 if alone else 2)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_alone_a_run_is_left_out_while_another_process_has_the_job(
    database: Database, database_settings: DatabaseSettings, sql: RawSql
):
    """It waits for nothing; and a process that dies leaves no lock behind, which goes with its connection."""
    create_counters(sql)
    other = Database(database_settings)
    go_on, has_begun, others = threading.Event(), threading.Event(), [0]

    def hold(session: Session) -> None:
        has_begun.set()
        go_on.wait(10)
        add(session)

    def count(session: Session) -> None:
        others[0] += 1

    async with jobs_at(database) as first, jobs_at(other) as second:
        first.every(0.01, hold, label="work", alone=True)
        assert await becomes_true(has_begun.is_set)
        second.every(0.01, count, label="work", alone=True)
        second.every(0.01, count, label="another job", alone=True)
        assert await becomes_true(lambda: others[0] >= 5)
        before = others[0]
        go_on.set()
        first.stopping.set()
        assert await becomes_true(lambda: value(sql) == 1)
        locks = sql("SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND granted")
        assert await becomes_true(lambda: others[0] >= before + 5)
    await other.close()

    assert locks[0]["n"] <= 2


async def test_stop_begins_nothing_and_waits_for_what_is_under_way(database: Database, sql: RawSql):
    """What is under way is committed."""
    create_counters(sql)
    has_begun = threading.Event()

    def work(session: Session) -> None:
        has_begun.set()
        jobs.stopping.wait(5)
        add(session)

    jobs = Jobs(database)
    jobs.every(EVERY_S, work)
    assert await asyncio.to_thread(has_begun.wait, 5)
    await jobs.stop()
    at_stop = value(sql)
    await asyncio.sleep(3 * EVERY_S)

    assert (at_stop, value(sql)) == (1, 1)


async def test_a_run_that_does_not_end_is_left_behind(database: Database, expect_log: ExpectLog):
    """`stop` ends in its time; the thread keeps no process from ending."""
    go_on, has_begun = threading.Event(), threading.Event()

    def hang() -> None:
        has_begun.set()
        go_on.wait(10)

    jobs = Jobs(database)
    jobs.every(EVERY_S, hang, label="hanging", in_transaction=False)
    assert await asyncio.to_thread(has_begun.wait, 5)
    began = time.monotonic()
    with expect_log("onfinish.jobs", "hanging: did not end within 0.1 s and is abandoned"):
        await jobs.stop(within_s=0.1)
    took_s = time.monotonic() - began
    [thread] = [each for each in threading.enumerate() if "hanging" in each.name]
    go_on.set()
    thread.join(5)

    assert took_s < 2
    assert thread.daemon


async def coroutine(session: Session) -> None:
    """Never run."""


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((0, print), {}, ValueError, "seconds is the time between two runs"),
        ((float("nan"), print), {}, ValueError, "seconds is the time between two runs"),
        ((float("inf"), print), {}, ValueError, "seconds is the time between two runs"),
        ((1, coroutine), {}, UsageError, "coroutine: is an async function"),
        (
            (1, print),
            {"alone": True, "in_transaction": False},
            UsageError,
            "`alone` lasts as long as a trans",
        ),
    ],
)
async def test_what_cannot_be_a_job_is_refused_where_it_is_given(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
    database: Database,
):
    async with jobs_at(database) as jobs:
        with pytest.raises(kind, match=message):
            jobs.every(*arguments, **options)


async def test_after_the_stop_no_job_begins(database: Database):
    jobs = Jobs(database)
    await jobs.stop()

    with pytest.raises(UsageError, match="have been stopped"):
        jobs.every(1, print)
