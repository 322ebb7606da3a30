"""Links that go dead: nothing answers, and still every request ends and every connection comes back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, Outcome
from db.capacity.executor import ABANDON_AFTER_S, SHUTDOWN_AFTER_S
from db.errors import DeadlinePassed, OutcomeUnknown, Unavailable, Unreachable
from tests.db.counters import add, create_counters, read, sleep, value
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.gen_test

MARGIN_S = 1.0
"""What two busy cores may add."""

DEADLINE_S = 0.4
"""Time enough to begin the work, also beside others."""

CUT = "its connection is cut"
HANGS = "its work hangs, and keeps its slot"


@pytest.fixture
def backend() -> str:
    """This one alone: SQLite has no link."""
    return "postgresql"


@pytest.fixture
def proxy(database_url: str, make_proxy: MakeProxy) -> Proxy:
    """Between the database under test and its server."""
    url = make_url(database_url)
    assert url.host is not None
    assert url.port is not None
    return make_proxy((url.host, url.port))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Stronger means follow sooner; the time until the last of them has been tried."""
    monkeypatch.setattr("db.capacity.executor.SHUTDOWN_AFTER_S", 0.3)
    monkeypatch.setattr("db.capacity.executor.ABANDON_AFTER_S", 0.3)
    return 0.6


@pytest.fixture
def database(database_url: str, proxy: Proxy, io_loop: IOLoop) -> Iterator[Database]:
    """Through the proxy, with one connection for each kind of work."""
    url = make_url(database_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    settings = DatabaseSettings(
        url=url, pool_size=1, pool_timeout_s=0.3, connect_timeout_s=2, pool_ping_after_s=0
    )
    database = Database(settings)
    yield database
    if proxy.is_frozen:
        proxy.thaw()
    io_loop.run_sync(database.close)


class Heart:
    """Beats in a thread and on the loop; knows the longest pause of each. Lives as long as its block."""

    def __init__(self) -> None:
        self.longest_s = {"thread": 0.0, "loop": 0.0}
        self._stopped = threading.Event()

    def beat(self, name: str, since: float) -> float:
        now = own_time()
        self.longest_s[name] = max(self.longest_s[name], now - since)
        return now

    async def __aenter__(self) -> Heart:
        self._thread = threading.Thread(target=self._in_thread)
        self._thread.start()
        self._task = asyncio.ensure_future(self._on_loop())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopped.set()
        await asyncio.to_thread(self._thread.join)
        await self._task

    def _in_thread(self) -> None:
        last = own_time()
        while not self._stopped.wait(0.01):
            last = self.beat("thread", last)

    async def _on_loop(self) -> None:
        last = own_time()
        while not self._stopped.is_set():
            await asyncio.sleep(0.01)
            last = self.beat("loop", last)


async def stopped(
    database: Database, work: Callable[[Any], Awaitable[object]], **options: Any
) -> tuple[Exception, float, Outcome]:
    """Do ``work(unit)`` in a unit that has `DEADLINE_S`: its error, how long it took, its outcome."""
    began = own_time()
    unit = database.unit_of_work(label="POST Some", deadline_at=time.monotonic() + DEADLINE_S, **options)
    try:
        async with unit:
            await work(unit)
    except Exception as error:  # noqa: BLE001 - the test judges it
        return error, own_time() - began, unit.outcome
    raise AssertionError("it was kept")


async def whole_again(database: Database, sql: RawSql) -> None:
    """All slots are free, and a new unit of work on each endpoint does its work."""
    for endpoint in (database.writer, database.reader):
        while endpoint.limiter.taken:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        assert endpoint.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    before = value(sql)
    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session)
    async with database.unit_of_work(read_only=True) as unit:
        assert await unit.run(read, unit.session) == before + 1


async def test_a_statement_that_is_never_answered_ends_in_time_and_delays_no_other(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """psycopg2's own cancel holds the interpreter's lock while it connects to a peer that says nothing."""
    create_counters(sql)

    async def work(unit: Any) -> None:
        await unit.run(add, unit.session)
        proxy.freeze()
        await unit.run(add, unit.session)

    async with Heart() as heart:
        with expect_log("onfinish.db", rf"^POST Some: .*{CUT}"):
            error, took_s, outcome = await stopped(database, work)

    assert isinstance(error, DeadlinePassed)
    assert outcome is Outcome.ROLLED_BACK
    assert took_s < DEADLINE_S + SHUTDOWN_AFTER_S + ABANDON_AFTER_S + MARGIN_S
    assert max(heart.longest_s.values()) < 0.4
    proxy.thaw()
    assert value(sql) == 0
    await whole_again(database, sql)


async def test_a_statement_that_is_cancelled_is_cancelled_at_the_server(database: Database, sql: RawSql):
    """Through a link that works, it takes no longer than the deadline, and the server is done with it too."""
    create_counters(sql)

    error, took_s, _ = await stopped(database, lambda unit: unit.run(sleep, unit.session, 60))

    assert isinstance(error, DeadlinePassed)
    assert took_s < DEADLINE_S + 0.5
    assert (
        sql("SELECT 1 AS x FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'")
        == []
    )
    await whole_again(database, sql)


async def test_a_dead_link_is_found_out_by_the_first_ping(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog, impatient: float
):
    """The ping comes before the connection is checked out, and hangs like any other statement."""
    create_counters(sql)
    await whole_again(database, sql)
    proxy.freeze()

    for read_only in (False, True):
        # The pool connects anew when a ping fails, which takes as long as connecting may.
        with expect_log("onfinish.db", CUT), expect_log("onfinish.db", HANGS):
            error, took_s, _ = await stopped(
                database, lambda unit: unit.run(read, unit.session), read_only=read_only
            )
        assert isinstance(error, DeadlinePassed | Unreachable)
        assert took_s < DEADLINE_S + impatient + MARGIN_S
    began = time.monotonic()
    while database.writer.limiter.taken or database.reader.limiter.taken:
        assert time.monotonic() - began < 2 + MARGIN_S, "a ping hangs for ever"
        await asyncio.sleep(0.01)
    assert proxy.is_frozen
    proxy.thaw()

    await whole_again(database, sql)


async def test_a_peer_that_accepts_and_says_nothing_is_given_up(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog, impatient: float
):
    """No connection yet that could be cut: the slot waits for the thread, the answer does not."""
    create_counters(sql)
    proxy.freeze()

    async with Heart() as heart:
        with expect_log("onfinish.db", CUT), expect_log("onfinish.db", HANGS):
            error, took_s, outcome = await stopped(database, lambda unit: unit.run(add, unit.session))

    assert isinstance(error, DeadlinePassed)
    assert took_s < DEADLINE_S + impatient + MARGIN_S
    assert outcome is not Outcome.COMMITTED
    assert max(heart.longest_s.values()) < 0.4
    proxy.thaw()
    await whole_again(database, sql)


async def test_however_many_stop_at_once_on_a_dead_link_each_ends_in_time(
    database_url: str, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """A cancel waits for a server that says nothing, few at a time: the others are cut without one."""
    create_counters(sql)
    many = 48
    url = make_url(database_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    database = Database(DatabaseSettings(url=url, pool_size=many, pool_ping_after_s=60))
    frozen = asyncio.Event()
    ready = asyncio.Semaphore(0)

    async def one() -> float:
        unit = database.unit_of_work(label="POST Some", read_only=True)
        await unit.run(read, unit.session)
        ready.release()
        await frozen.wait()
        running = asyncio.ensure_future(unit.run(read, unit.session))
        await asyncio.sleep(DEADLINE_S)
        began = own_time()
        unit.cancel(DeadlinePassed())
        with pytest.raises(DeadlinePassed):
            await running
        took_s = own_time() - began
        await unit.settle(keep=False)
        return took_s

    async with Heart() as heart:
        stopping = [asyncio.create_task(one()) for _ in range(many)]
        for _ in range(many):
            await ready.acquire()
        proxy.freeze()
        frozen.set()
        with expect_log("onfinish.db", CUT):
            took_s = await asyncio.gather(*stopping)
    proxy.thaw()
    await database.close()

    assert max(took_s) < SHUTDOWN_AFTER_S + ABANDON_AFTER_S + MARGIN_S
    assert max(heart.longest_s.values()) < 0.4


async def test_a_peer_that_says_nothing_is_unreachable_when_there_is_time_to_find_out(
    database: Database, proxy: Proxy, sql: RawSql
):
    proxy.freeze()

    began = time.monotonic()
    with pytest.raises(Unreachable):
        async with database.unit_of_work() as unit:
            await unit.run(read, unit.session)

    assert 1.5 < time.monotonic() - began < 2 + MARGIN_S


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_commit_that_is_never_answered_is_unknown_at_the_deadline(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog, lost: str
):
    """The server never got it, or has done it: from here both look the same, so neither is claimed."""
    create_counters(sql)

    async def work(unit: Any) -> None:
        await unit.run(add, unit.session)
        (proxy.swallow if lost == "request" else proxy.lose_answer_to)(b"COMMIT")

    # The commit marker cannot be read either: the thread that tries is left behind.
    with expect_log("onfinish.db", CUT), expect_log("onfinish.db", HANGS, required=False):
        error, took_s, outcome = await stopped(database, work)

    assert isinstance(error, OutcomeUnknown)
    assert outcome is Outcome.UNKNOWN
    assert took_s < DEADLINE_S + SHUTDOWN_AFTER_S + ABANDON_AFTER_S + MARGIN_S
    proxy.thaw()
    assert wait_until(lambda: value(sql) == (0 if lost == "request" else 1))
    await whole_again(database, sql)


async def test_a_commit_that_is_late_is_not_cancelled(database: Database, sql: RawSql):
    """It was sent in time, and a cancel would leave open what became of it: its answer is waited for."""
    create_counters(sql)
    sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.4); RETURN NULL; END $$"
    )
    sql(
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )

    began = time.monotonic()
    async with database.unit_of_work(deadline_at=began + 0.2) as unit:
        await unit.run(add, unit.session)

    assert unit.outcome is Outcome.COMMITTED
    assert time.monotonic() - began > 0.4
    assert value(sql) == 1


async def test_a_rollback_that_is_never_answered_ends_in_time(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """Undoing goes over the same dead link."""
    create_counters(sql)

    async def work(unit: Any) -> None:
        await unit.run(add, unit.session)
        proxy.freeze()
        raise KeyError

    with expect_log("onfinish.db", f"{CUT}|thrown away", required=True):
        error, took_s, outcome = await stopped(database, work)

    assert isinstance(error, KeyError)
    assert outcome is Outcome.ROLLED_BACK
    assert took_s < DEADLINE_S + SHUTDOWN_AFTER_S + ABANDON_AFTER_S + MARGIN_S
    proxy.thaw()
    assert value(sql) == 0
    await whole_again(database, sql)


async def test_a_link_that_is_reset_in_a_transaction_is_unreachable(
    database: Database, proxy: Proxy, sql: RawSql
):
    create_counters(sql)

    with pytest.raises(Unreachable):
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
            proxy.cut()
            await unit.run(add, unit.session)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert wait_until(lambda: value(sql) == 0)
    await whole_again(database, sql)


async def test_a_connection_that_broke_in_a_call_that_goes_on_is_stopped_all_the_same(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """There is nothing to cut any more, and nothing to trip over."""
    create_counters(sql)

    def break_and_dawdle(session: Session) -> None:
        add(session)
        proxy.cut()
        with pytest.raises(Exception, match=r"closed|reset"):
            add(session)
        time.sleep(1.6)

    with expect_log("onfinish.db", CUT):
        error, _, outcome = await stopped(database, lambda unit: unit.run(break_and_dawdle, unit.session))

    assert isinstance(error, DeadlinePassed)
    assert outcome is Outcome.ROLLED_BACK
    await whole_again(database, sql)


async def test_a_call_that_sleeps_in_python_is_given_up_and_its_slot_comes_back_with_it(
    database: Database, sql: RawSql, expect_log: ExpectLog, impatient: float
):
    """A thread cannot be stopped. The answer leaves; its slot and connection stay taken until it ends."""
    create_counters(sql)
    enough = threading.Event()

    def dawdle(session: Session) -> None:
        add(session)
        enough.wait(20)

    with expect_log("onfinish.db", CUT), expect_log("onfinish.db", HANGS):
        error, took_s, outcome = await stopped(database, lambda unit: unit.run(dawdle, unit.session))
    with pytest.raises(Unavailable):
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
    taken = database.writer.limiter.taken
    enough.set()

    assert isinstance(error, DeadlinePassed)
    assert outcome is not Outcome.COMMITTED
    assert took_s < DEADLINE_S + impatient + MARGIN_S
    assert taken == 1
    await whole_again(database, sql)
    assert value(sql) == 1


async def test_the_time_limit_of_a_scope_holds_for_the_ping_of_its_connection(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """In a thread of its own; a ping hangs like any other statement. The pool connects once more then."""
    create_counters(sql)

    def scope(timeout_s: float | None) -> None:
        with database.session_scope(label="POST Some", timeout_s=timeout_s) as session:
            add(session)

    await asyncio.to_thread(scope, None)
    proxy.freeze()
    began = own_time()
    with expect_log("onfinish.db", rf"^POST Some: .*{CUT}"), pytest.raises(DeadlinePassed):
        await asyncio.to_thread(scope, DEADLINE_S)
    took_s = own_time() - began

    assert database.settings.connect_timeout_s is not None
    assert took_s < DEADLINE_S + SHUTDOWN_AFTER_S + database.settings.connect_timeout_s + MARGIN_S
    proxy.thaw()
    assert value(sql) == 1
    await whole_again(database, sql)


async def test_a_deadline_between_two_statements_undoes_the_unit_at_once(database: Database, sql: RawSql):
    """Nothing runs that would have to be cancelled; no link is cut for it."""
    create_counters(sql)

    async def work(unit: Any) -> None:
        await unit.run(add, unit.session)
        await asyncio.sleep(0.4)
        assert database.writer.limiter.taken == 0, "given back at the deadline, not when its owner wakes up"
        await unit.run(add, unit.session)

    error, took_s, outcome = await stopped(database, work)

    assert isinstance(error, DeadlinePassed)
    assert outcome is Outcome.ROLLED_BACK
    assert took_s < 0.4 + MARGIN_S
    assert value(sql) == 0
    await whole_again(database, sql)


async def test_a_link_that_dies_between_two_statements_delays_no_answer(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """At the deadline nothing runs; then the rollback has no answer either."""
    create_counters(sql)

    async def work(unit: Any) -> None:
        await unit.run(add, unit.session)
        proxy.freeze()
        await asyncio.sleep(0.4)

    with expect_log("onfinish.db", CUT), expect_log("onfinish.db", "thrown away"):
        error, took_s, outcome = await stopped(database, work)

    assert isinstance(error, DeadlinePassed)
    assert outcome is Outcome.ROLLED_BACK
    assert took_s < DEADLINE_S + SHUTDOWN_AFTER_S + ABANDON_AFTER_S + MARGIN_S
    proxy.thaw()
    assert wait_until(lambda: value(sql) == 0)
    await whole_again(database, sql)


async def test_a_dead_link_under_a_statement_that_is_not_sent_any_more(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """The call ends by itself, in Python, after the deadline; what hangs is the rollback that follows it."""
    create_counters(sql)

    def dawdle(session: Session) -> None:
        add(session)
        proxy.freeze()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database.backend, "cancel_statement", lambda connection: None)
            time.sleep(0.3)
        read(session)

    with expect_log("onfinish.db", CUT, required=False), expect_log("onfinish.db", "", required=False):
        error, took_s, outcome = await stopped(database, lambda unit: unit.run(dawdle, unit.session))

    assert isinstance(error, DeadlinePassed)
    assert outcome is Outcome.ROLLED_BACK
    assert took_s < 0.3 + SHUTDOWN_AFTER_S + MARGIN_S
    proxy.thaw()
    await whole_again(database, sql)


async def test_a_deadline_in_the_queue_for_a_slot(database: Database, sql: RawSql):
    create_counters(sql)

    async with database.unit_of_work() as holder:
        await holder.run(add, holder.session)

        async def other() -> tuple[Any, float, Outcome]:
            return await stopped(database, lambda unit: unit.run(add, unit.session))

        error, took_s, outcome = await asyncio.create_task(other())

    assert isinstance(error, DeadlinePassed | Unavailable)
    assert took_s < DEADLINE_S + 0.3
    assert outcome is Outcome.ROLLED_BACK
    await whole_again(database, sql)
    assert value(sql) == 2


async def test_a_statement_timed_by_the_server_counts_for_the_unit(database: Database, sql: RawSql):
    """A statement limit of the program's own is an error of that statement, not the end of the connection."""
    create_counters(sql)

    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work() as unit:
            await unit.run(
                lambda session: session.execute(text("SET LOCAL statement_timeout = 50")), unit.session
            )
            await unit.run(sleep, unit.session, 10)

    await whole_again(database, sql)
