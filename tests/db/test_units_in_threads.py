"""A unit of work that asks for threads, on each driver: it computes there, and the loop waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import threading
import time
import weakref
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database, Outcome
from db.backends.drivers.on_loop import LoopConnection
from db.capacity.executor import LoopThreadCall
from db.capacity.greenlets import Worker
from db.capacity.threads import Threads
from db.errors import Cancelled, Conflict, ConnectionLost, DeadlinePassed, NestedUnitOfWork, UsageError
from tests.db.counters import add, create_counters, create_families, orphan, read, sleep, value
from tests.fixtures.backends import ASYNC, DEFAULT, GREENLETS
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import PostgresWire
from tests.fixtures.waiting import wait_until
from tests.handlers.waiting import until

pytestmark = pytest.mark.gen_test

every_one = pytest.mark.parametrize("backend", DEFAULT + ASYNC + GREENLETS, indirect=True)
on_the_loop = pytest.mark.parametrize("backend", ASYNC + GREENLETS, indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql", *ASYNC[:2], *GREENLETS], indirect=True)

_called_by: contextvars.ContextVar[str] = contextvars.ContextVar("_called_by", default="")


@every_one
async def test_the_loop_goes_on_while_it_computes(database: Database, sql: RawSql):
    create_counters(sql)
    _called_by.set("the caller")
    seen: list[tuple[str, str]] = []
    goes_on = threading.Event()

    def work(session: Session) -> int:
        add(session)
        assert goes_on.wait(10), "the event loop stood still"
        seen.append((threading.current_thread().name, _called_by.get()))
        return read(session)

    async with database.unit_of_work(executor="threads") as unit:
        answer = asyncio.ensure_future(unit.run(work, unit.session))
        await asyncio.sleep(0.05)
        goes_on.set()
        n = await answer

    assert n == value(sql) == 1
    assert seen == [("onfinish-writer_0", "the caller")]


@on_the_loop
async def test_units_in_threads_and_on_the_loop_share_the_connections(database: Database, sql: RawSql):
    create_counters(sql)

    async def request(number: int) -> None:
        async with database.unit_of_work(executor="threads" if number % 2 else None) as unit:
            await unit.run(add, unit.session)
            await unit.run(read, unit.session)
            if number % 5 == 0:
                raise LookupError

    ends = await asyncio.gather(*(request(n) for n in range(60)), return_exceptions=True)

    assert [type(end) for end in ends if end is not None] == [LookupError] * 12
    assert value(sql) == 48
    assert database.writer.limiter.taken == 0


@every_one
async def test_what_fails_at_commit_is_told(database: Database, sql: RawSql):
    create_families(sql)

    with pytest.raises(Conflict):
        async with database.unit_of_work(executor="threads") as unit:
            await unit.run(orphan, unit.session)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert sql("SELECT * FROM children") == []


@on_postgresql
async def test_a_deadline_cancels_the_statement_at_the_server(database: Database, sql: RawSql):
    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work(executor="threads", deadline_at=time.monotonic() + 0.2) as unit:
            await unit.run(sleep, unit.session, 60)

    assert unit.outcome is Outcome.ROLLED_BACK
    running = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    assert wait_until(lambda: sql(running) == [])
    assert wait_until(lambda: database.writer.limiter.taken == 0)


@on_the_loop
async def test_a_deadline_does_not_wait_for_what_computes(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """What was written before it is rolled back, and the slot is free when the function has returned."""
    create_counters(sql)
    returns = threading.Event()

    def work(session: Session) -> None:
        add(session)
        returns.wait(30)
        add(session)

    with (
        expect_log("onfinish.db", "its connection is cut"),
        expect_log("onfinish.db", "keeps its slot until it ends"),
        pytest.raises(DeadlinePassed),
    ):
        async with database.unit_of_work(executor="threads", deadline_at=time.monotonic() + 0.2) as unit:
            await unit.run(work, unit.session)
    taken = database.writer.limiter.taken
    returns.set()
    await until(lambda: not database.writer.limiter.taken)

    assert taken == 1
    assert value(sql) == 0
    async with database.unit_of_work() as another:
        await another.run(add, another.session)
    assert value(sql) == 1


@on_postgresql
async def test_a_cancel_between_two_statements_undoes_it(database: Database, sql: RawSql):
    create_counters(sql)
    begun, goes_on = threading.Event(), threading.Event()

    def work(session: Session) -> None:
        add(session)
        begun.set()
        goes_on.wait(10)
        read(session)

    unit = database.unit_of_work(executor="threads")
    answer = asyncio.ensure_future(unit.run(work, unit.session))
    await asyncio.to_thread(begun.wait, 10)
    unit.cancel(Cancelled("the operator's"))
    goes_on.set()
    with pytest.raises(Cancelled):
        await answer
    with pytest.raises(Cancelled):
        await unit.settle(keep=True)

    assert value(sql) == 0


@pytest.mark.parametrize("backend", [*ASYNC[:2], *GREENLETS], indirect=True)
@pytest.mark.parametrize("delivered", [True, False])
async def test_a_commit_whose_answer_is_lost_is_looked_up(
    delivered: bool,
    postgres_cluster: PostgresCluster,
    database_url: str,
    sql: RawSql,
    expect_log: ExpectLog,
):
    """In the thread itself, which may wait for it."""
    create_counters(sql)
    with closing(PostgresWire(("127.0.0.1", postgres_cluster.port))) as wire:
        url = make_url(database_url).set(port=wire.port).render_as_string(hide_password=False)
        database = Database(DatabaseSettings(url=url, pool_size=1))
        unit = database.unit_of_work(executor="threads")
        await unit.run(add, unit.session)
        wire.cut_at(b"COMMIT", delivered=delivered)

        with (
            expect_log("onfinish.db", "was applied" if delivered else "was not applied"),
            contextlib.nullcontext() if delivered else pytest.raises(ConnectionLost),
        ):
            await unit.settle(keep=True)
        await database.close()

    assert unit.outcome is (Outcome.COMMITTED if delivered else Outcome.ROLLED_BACK)
    assert value(sql) == delivered


@every_one
async def test_a_scope_inside_of_it_is_refused(database: Database):
    """It would take a second slot, and wait for its own where all are taken."""

    def work(session: Session) -> None:
        with database.session_scope():
            pass

    async with database.unit_of_work(executor="threads") as unit:
        with pytest.raises(NestedUnitOfWork):
            await unit.run(work, unit.session)


@on_the_loop
async def test_a_call_holds_nothing_when_it_is_over(database: Database):
    class Kept:
        pass

    async def use() -> weakref.ref[Kept]:
        kept = Kept()
        async with database.unit_of_work(executor="threads", read_only=True) as unit:
            await unit.run(lambda session, of_it: session.execute(text("SELECT 1")), unit.session, kept)
        return weakref.ref(kept)

    gone = await use()
    for _ in range(3):
        await asyncio.sleep(0.01)
        gc.collect()

    assert gone() is None


@pytest.mark.parametrize("backend", GREENLETS, indirect=True)
async def test_nothing_of_the_loop_is_touched_by_the_thread(
    database: Database, sql: RawSql, monkeypatch: pytest.MonkeyPatch
):
    """The loop watches the socket of an idle connection; the thread in which that breaks does not end it."""
    loop = asyncio.get_running_loop()
    touched: list[int] = []
    for name in ("add_reader", "remove_reader", "add_writer", "remove_writer", "call_soon"):
        own = getattr(loop, name)

        def noted(*args: Any, own: Any = own, **kwargs: Any) -> Any:
            touched.append(threading.get_ident())
            return own(*args, **kwargs)

        monkeypatch.setattr(loop, name, noted)
    step, is_late = LoopConnection._step, threading.Event()

    def late(self: LoopConnection) -> None:
        if not is_late.is_set() or self._waiter is not None:
            step(self)

    monkeypatch.setattr(LoopConnection, "_step", late)
    pids: list[int] = []
    sockets: list[int] = []

    def work(session: Session) -> None:
        pids.append(session.scalar(text("SELECT pg_backend_pid()")) or 0)
        connection: Any = session.connection().connection.dbapi_connection
        sockets.append(connection.fileno())

    def broken(session: Session) -> None:
        is_late.set()  # the loop is at something else when the connection breaks
        with socket.socket(fileno=os.dup(sockets[-1])) as own:
            own.shutdown(socket.SHUT_RDWR)
        try:
            work(session)
        finally:
            is_late.clear()

    async with database.unit_of_work() as unit:
        await unit.run(work, unit.session)
    async with database.unit_of_work(executor="threads") as unit:
        await unit.run(broken, unit.session)  # which finds it out by its ping, and connects anew

    assert pids[0] != pids[-1]
    assert set(touched) == {threading.get_ident()}


@on_the_loop
async def test_what_a_unit_does_afterwards_runs_in_a_thread_too(database: Database, sql: RawSql):
    create_counters(sql)
    seen: list[str] = []

    def audit(session: Session) -> None:
        add(session)
        seen.append(threading.current_thread().name)

    for read_only in (False, True):
        unit = database.unit_of_work(executor="threads", read_only=read_only)
        await unit.run(read, unit.session)
        await unit.settle(keep=True, follow_ups=lambda error: [audit])

    assert [name.rpartition("_")[0] for name in seen] == ["onfinish-writer"] * 2
    assert value(sql) == 2


@on_the_loop
async def test_what_is_cleaned_up_needs_no_thread(database: Database):
    """When the threads are closed already, what a unit held is given back all the same."""
    done = asyncio.Event()
    database.writer.threads.close(wait=True)

    database.writer.threads.detach(done.set)

    async with asyncio.timeout(5):
        await done.wait()


@on_the_loop
async def test_no_greenlet_is_left_of_a_call(database: Database):
    """Each has a stack of its own: 18 KB."""

    def workers() -> int:
        gc.collect()
        return sum(type(each) is Worker for each in gc.get_objects())

    async def use() -> None:
        async with database.unit_of_work(executor="threads", read_only=True) as unit:
            await unit.run(lambda session: session.execute(text("SELECT 1")), unit.session)

    await use()
    before = workers()
    for _ in range(5):
        await use()

    assert workers() <= before


def test_a_loop_that_is_closed_under_it_does_not_hold_the_thread(expect_log: ExpectLog):
    threads = Threads(1, name="under-test")
    ended = threading.Event()

    def work() -> Any:
        from sqlalchemy.util.concurrency import await_

        try:
            await_(asyncio.sleep(60))
        finally:
            ended.set()

    async def begin() -> None:
        LoopThreadCall(threads, threads, work, lambda call: None)
        await asyncio.sleep(0.05)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    with expect_log("asyncio", "Task was destroyed"):  # the loop's, which was closed over it
        loop.close()
        assert ended.wait(10)
        threads.close(wait=True)
        del loop
        gc.collect()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_an_unknown_executor_is_refused(database: Database):
    with pytest.raises(UsageError, match=r"'processes'.*threads"):
        database.unit_of_work(executor="processes")  # type: ignore[arg-type]
