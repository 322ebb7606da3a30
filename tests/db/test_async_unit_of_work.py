"""A unit of work on the event loop: a slot first, one call at a time, settled once by any path."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, Outcome
from db.errors import (
    ClientDisconnected,
    ConcurrentUse,
    Conflict,
    DeadlinePassed,
    NestedUnitOfWork,
    OutsideRun,
    PoolTimeout,
    SessionSettled,
)
from tests.db.counters import add, create_counters, create_families, orphan, read, sleep, value
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.slots import all_slots
from tests.service.model import Shelf

pytestmark = pytest.mark.gen_test

FEW = 5


@pytest.fixture
def database_settings(database_url: str, request: pytest.FixtureRequest) -> DatabaseSettings:
    """Five slots, and a short timeout for a sixth."""
    own = getattr(request, "param", {"pool_size": FEW, "pool_timeout_s": 0.5})
    return DatabaseSettings(url=database_url, **own)


def slots_of(database: Database) -> tuple[int, int]:
    """The taken slots and the waiters of all its endpoints."""
    endpoints = {database.writer.limiter, database.reader.limiter}
    return sum(limiter.taken for limiter in endpoints), sum(limiter.waiting for limiter in endpoints)


async def test_it_is_kept_at_the_end_of_the_block_and_undone_where_the_block_raises(
    database: Database, sql: RawSql
):
    create_counters(sql)

    async with database.unit_of_work() as kept:
        await kept.run(add, kept.session)
    with pytest.raises(KeyError):
        async with database.unit_of_work() as undone:
            await undone.run(add, undone.session, 10)
            raise KeyError

    assert (kept.outcome, undone.outcome) == (Outcome.COMMITTED, Outcome.ROLLED_BACK)
    assert value(sql) == 1
    assert slots_of(database) == (0, 0)


async def test_a_unit_that_does_nothing_takes_nothing(database: Database):
    """No slot, no thread, no connection, and so no wait where everything is taken."""
    held = all_slots(database.writer.limiter)

    began = own_time()
    async with database.unit_of_work() as unit:
        pass

    assert unit.outcome is Outcome.COMMITTED
    assert own_time() - began < 0.2
    held.close()


async def test_work_runs_off_the_loop_and_sees_the_callers_context(database: Database):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")

    def where() -> tuple[str, str]:
        return threading.current_thread().name, variable.get()

    async with database.unit_of_work() as unit:
        thread, seen = await unit.run(where)

    assert thread.startswith("onfinish-writer")
    assert seen == "mine"


async def test_sql_from_the_loop_is_refused_before_anything_is_taken(database: Database, sql: RawSql):
    create_counters(sql)

    unit = database.unit_of_work(label="GET Some")
    with pytest.raises(OutsideRun, match="GET Some"):
        read(unit.session)
    await unit.settle(keep=False)

    assert slots_of(database) == (0, 0)


async def test_a_place_is_kept_from_the_first_hop_until_the_end(database: Database, sql: RawSql):
    create_counters(sql)
    seen = []

    async with database.unit_of_work() as unit:
        seen.append(slots_of(database))
        await unit.run(read, unit.session)
        seen.append(slots_of(database))
        await asyncio.sleep(0)
        seen.append(slots_of(database))
        assert unit.has_slot

    assert seen == [(0, 0), (1, 0), (1, 0)]
    assert slots_of(database) == (0, 0)


@pytest.mark.parametrize(
    "database_settings", [{"pool_size": FEW, "pool_timeout_s": 10}], indirect=True, ids=["a patient queue"]
)
async def test_forty_units_of_two_calls_share_five_connections(database: Database, sql: RawSql):
    """With a pool alone this ends in time-outs: second calls wait for first ones, and these for them."""
    create_counters(sql)
    pool: Any = database.reader.engine.pool
    assert (pool.size(), database.reader.limiter.size) == (FEW, FEW)
    most = 0

    def look(session: Session) -> int:
        nonlocal most
        n = read(session)
        time.sleep(0.004)
        most = max(most, pool.checkedout())
        return n

    async def request() -> None:
        async with database.unit_of_work(read_only=True) as unit:
            await unit.run(look, unit.session)
            await asyncio.sleep(0.004)
            await unit.run(look, unit.session)

    began = own_time()
    await asyncio.gather(*(request() for _ in range(40)))

    assert most <= FEW
    assert own_time() - began < 2
    assert slots_of(database) == (0, 0)


async def test_no_thread_ever_waits_in_the_pool(
    database: Database, sql: RawSql, monkeypatch: pytest.MonkeyPatch
):
    """By asking the pool itself: whenever it is asked for a connection, it has one or may open one."""
    create_counters(sql)
    database.settings = database.settings.model_copy(update={"pool_timeout_s": 20.0})
    short: list[str] = []
    for endpoint in (database.writer, database.reader):
        pool: Any = endpoint.engine.pool

        def get(pool: Any = pool, original: Any = pool._do_get) -> Any:
            if pool.checkedout() >= pool.size():
                short.append(f"{pool.status()}")
            return original()

        monkeypatch.setattr(pool, "_do_get", get)

    async def request(number: int) -> None:
        async with database.unit_of_work(read_only=bool(number % 2)) as unit:
            await unit.run(read, unit.session)
            await unit.run(read, unit.session)

    await asyncio.gather(*(request(number) for number in range(60)))

    assert short == []


async def test_a_full_lane_is_a_prompt_refusal_and_the_loop_goes_on(database: Database, sql: RawSql):
    """Writers stuck behind something do not stop the readers, and the loop never waits."""
    create_counters(sql)
    release = threading.Event()
    stuck = [database.unit_of_work() for _ in range(database.writer.limiter.size)]
    executor = [asyncio.ensure_future(unit.run(release.wait, 10)) for unit in stuck]
    await asyncio.sleep(0.05)
    longest_s = 0.0

    async def beat() -> None:
        nonlocal longest_s
        while True:
            began = own_time()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, own_time() - began)

    heart = asyncio.ensure_future(beat())
    began, began_here = time.monotonic(), own_time()
    with pytest.raises(PoolTimeout) as caught:
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
    refused_after_s, refused_after_here_s = time.monotonic() - began, own_time() - began_here
    async with database.unit_of_work(read_only=True) as reading:
        assert await reading.run(read, reading.session) == 0
    heart.cancel()
    release.set()
    await asyncio.gather(*executor)
    for unit in stuck:
        await unit.settle(keep=False)

    assert refused_after_s > 0.4
    assert refused_after_here_s < 1.0
    assert caught.value.retry_after_s >= 1
    assert longest_s < 0.3
    assert slots_of(database) == (0, 0)


async def test_a_unit_that_got_no_slot_may_try_again(database: Database, sql: RawSql):
    create_counters(sql)
    held = all_slots(database.writer.limiter)

    async with database.unit_of_work() as unit:
        with pytest.raises(PoolTimeout):
            await unit.run(add, unit.session)
        held.close()
        await unit.run(add, unit.session)

    assert value(sql) == 1


async def test_two_at_once_are_refused_and_the_first_goes_on(database: Database, sql: RawSql):
    create_counters(sql)

    async with database.unit_of_work(label="POST Some") as unit:
        results = await asyncio.gather(
            unit.run(add, unit.session), unit.run(add, unit.session, 10), return_exceptions=True
        )

    assert results[0] is None
    assert isinstance(results[1], ConcurrentUse)
    assert "POST Some" in str(results[1])
    assert "asyncio.gather" in str(results[1])
    assert value(sql) == 1


async def test_a_settled_unit_runs_nothing_more(database: Database, sql: RawSql):
    create_counters(sql)
    async with database.unit_of_work(label="POST Some") as unit:
        await unit.run(add, unit.session)

    with pytest.raises(SessionSettled, match="POST Some"):
        await unit.run(time.time)
    with pytest.raises(SessionSettled, match="POST Some"):
        unit.session.get(int, 1)


async def test_a_unit_that_holds_a_slot_is_refused_a_second_one(database: Database, sql: RawSql):
    """With all slots taken it would wait for itself. In a call, in the same task, in session_scope."""
    create_counters(sql)

    def nested() -> None:
        with database.session_scope(label="inner") as session:
            add(session)

    async with database.unit_of_work(label="outer") as unit:
        await unit.run(add, unit.session)
        with pytest.raises(NestedUnitOfWork, match=r"(?s)inner.*outer.*in_new_transaction"):
            async with database.unit_of_work(label="inner") as inner:
                await inner.run(add, inner.session)
        with pytest.raises(NestedUnitOfWork, match=r"(?s)inner.*outer"):
            await unit.run(nested)

    assert value(sql) == 1
    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session)
    assert slots_of(database) == (0, 0)


async def test_units_in_tasks_of_their_own_are_not_second_ones(database: Database, sql: RawSql):
    create_counters(sql)

    async def job(number: int) -> None:
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)

    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(read, unit.session)
        await asyncio.gather(*(job(number) for number in range(10)))

    assert value(sql) == 10


async def test_settling_twice_decides_once(database: Database, sql: RawSql):
    """The second caller waits for the first, and gets an error where it wanted another end."""
    create_counters(sql)
    unit = database.unit_of_work(label="POST Some")
    await unit.run(add, unit.session)

    results = await asyncio.gather(
        unit.settle(keep=False), unit.settle(keep=True), unit.settle(keep=False), return_exceptions=True
    )

    assert results[0] is None
    assert isinstance(results[1], SessionSettled)
    assert results[2] is None
    assert value(sql) == 0
    assert slots_of(database) == (0, 0)


async def test_a_failed_commit_releases_its_slot(database: Database, sql: RawSql):
    create_families(sql)

    for _ in range(2):
        with pytest.raises(Conflict):
            async with database.unit_of_work() as unit:
                await unit.run(orphan, unit.session)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert slots_of(database) == (0, 0)


@pytest.mark.usefixtures("shelves")
async def test_rows_that_were_only_added_are_kept(database: Database, sql: RawSql):
    """Without a single `run` there is no slot yet: the end takes one for the flush."""
    async with database.unit_of_work() as unit:
        unit.session.add(Shelf(name="a"))

    assert sql("SELECT name FROM shelves") == [{"name": "a"}]
    assert slots_of(database) == (0, 0)


@pytest.mark.parametrize("reason", [ClientDisconnected(), DeadlinePassed()])
async def test_a_unit_that_is_stopped_is_undone_at_once(
    database: Database, sql: RawSql, reason: ClientDisconnected | DeadlinePassed
):
    """Its statement is cancelled in the database, its waiter gets the reason, its slot is free."""
    create_counters(sql)
    unit = database.unit_of_work()
    await unit.run(add, unit.session)
    call = asyncio.ensure_future(unit.run(sleep, unit.session, 30))
    await asyncio.sleep(0.1)

    began = own_time()
    unit.cancel(reason)
    with pytest.raises(type(reason)):
        await call
    with pytest.raises(type(reason)):
        await unit.settle(keep=True)

    assert own_time() - began < 0.8
    assert unit.outcome is Outcome.ROLLED_BACK
    assert value(sql) == 0
    assert slots_of(database) == (0, 0)
    async with database.unit_of_work() as following:
        await following.run(add, following.session)


async def test_a_stop_after_the_end_changes_nothing(database: Database, sql: RawSql):
    create_counters(sql)
    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session)

    unit.cancel(ClientDisconnected())
    unit.cancel(DeadlinePassed())
    await asyncio.sleep(0.01)

    assert unit.outcome is Outcome.COMMITTED
    assert value(sql) == 1


async def test_a_stop_in_the_queue_leaves_no_slot_behind(database: Database, sql: RawSql):
    create_counters(sql)
    held = all_slots(database.writer.limiter)
    unit = database.unit_of_work()
    call = asyncio.ensure_future(unit.run(add, unit.session))
    await asyncio.sleep(0.01)

    unit.cancel(ClientDisconnected())
    held.close()

    with pytest.raises(ClientDisconnected):
        await call
    await unit.settle(keep=False)
    assert slots_of(database) == (0, 0)


async def test_a_task_that_is_cancelled_does_not_wait_for_its_statement(database: Database, sql: RawSql):
    """As asyncio.wait_for and a lost server do it: the statement is cancelled in the database too."""
    create_counters(sql)

    async def work() -> None:
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
            await unit.run(sleep, unit.session, 30)

    began = own_time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 0.2)

    assert own_time() - began < 1.2
    assert value(sql) == 0
    assert slots_of(database) == (0, 0)


async def test_a_task_that_is_cancelled_in_its_commit_leaves_a_whole_pool(database: Database, sql: RawSql):
    """COMMIT goes on, and is either whole or not at all; the slot comes back with it."""
    create_counters(sql)

    for turns in range(1, 7):
        unit = database.unit_of_work()
        await unit.run(add, unit.session)
        ending = asyncio.ensure_future(unit.settle(keep=True))
        for _ in range(turns):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
    while slots_of(database) != (0, 0):  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)

    assert 0 <= value(sql) <= 6
    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session)


async def test_a_task_that_is_cancelled_before_its_commit_is_undone_as_its_unit_says(
    database: Database, sql: RawSql
):
    """The call that was to commit runs on without a waiter, and sends no COMMIT any more."""
    create_counters(sql)
    begun, go_on = threading.Event(), threading.Event()

    def last(session: Session) -> None:
        begun.set()
        go_on.wait(10)

    unit = database.unit_of_work()
    await unit.run(add, unit.session)
    ending = asyncio.ensure_future(unit.settle(keep=True, last=last))
    assert await asyncio.to_thread(begun.wait, 10)
    ending.cancel()
    await asyncio.wait([ending])
    said = unit.outcome
    go_on.set()
    while slots_of(database) != (0, 0):  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)

    assert said is Outcome.ROLLED_BACK
    assert value(sql) == 0


async def test_what_follows_is_done_whatever_became_of_the_unit(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """In units of work of their own; one that fails is logged and stops neither the others nor the answer."""
    create_counters(sql)
    unit = database.unit_of_work(label="POST Some")
    await unit.run(add, unit.session, 1000)

    def fail(session: Session) -> None:
        add(session, 500)
        raise KeyError

    with expect_log("onfinish.db", "^POST Some afterwards: failed"):
        await unit.settle(keep=False, follow_ups=lambda fault: [add, fail, add])

    assert unit.outcome is Outcome.ROLLED_BACK
    assert value(sql) == 2
    assert slots_of(database) == (0, 0)


async def test_what_follows_a_read_is_done_on_the_writer(database: Database, sql: RawSql):
    create_counters(sql)
    unit = database.unit_of_work(read_only=True)
    await unit.run(read, unit.session)

    await unit.settle(keep=True, follow_ups=lambda fault: [add])

    assert value(sql) == 1
    assert slots_of(database) == (0, 0)


def test_a_unit_that_was_dropped_warns_and_leaves_everything_whole(
    database: Database, sql: RawSql, io_loop: IOLoop
):
    """Without a reference it cannot be settled: its slot and connection come back, its work is undone."""
    create_counters(sql)

    async def forgetful() -> None:
        unit = database.unit_of_work(label="a job")
        await unit.run(add, unit.session, 1000)
        del unit
        gc.collect()

    async def in_new_transaction() -> None:
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)

    with pytest.warns(ResourceWarning, match="a job: a unit of work was dropped unsettled"):
        io_loop.run_sync(forgetful)
    gc.collect()  # the warning held it
    io_loop.run_sync(in_new_transaction)

    assert slots_of(database) == (0, 0)
    assert value(sql) == 1
    assert len(database.units) == 0
