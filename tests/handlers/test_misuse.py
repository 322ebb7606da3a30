"""Sessions used as they cannot be used: refused at once, with a message that names the way out."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import select
from sqlalchemy.util.concurrency import greenlet_spawn

from conf import DatabaseSettings
from db import Database
from db.errors import ConcurrentUse, NestedUnitOfWork, OutsideRun, SessionNotOwned, SessionSettled
from handlers import ApiHandler
from handlers.idempotency import IdempotentHandler
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import Note, add_note, get_note, list_texts
from tests.handlers.waiting import until

pytestmark = pytest.mark.gen_test


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """Two slots each: enough for a second one to be asked for, few enough to be taken."""
    return DatabaseSettings(url=database_url, pool_size=2, pool_timeout_s=1)


Body = Callable[[ApiHandler], Awaitable[None]]


def handler_of(body: Body) -> type[ApiHandler]:
    """A handler that does the same for GET and POST."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            await body(self)

        async def post(self) -> None:
            await body(self)

    return Handler


async def test_two_runs_at_once_are_refused(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A session does one thing at a time: the second `run` says so and names gather; nothing is kept.

    The first one's thread is waited for, so nothing works with a connection that others have.
    """

    def add_slowly(handler: ApiHandler, text: str) -> None:
        time.sleep(0.1)
        add_note(handler.session, text=text)

    async def body(handler: ApiHandler) -> None:
        await asyncio.gather(handler.run(add_slowly, handler, "one"), handler.run(add_slowly, handler, "two"))

    client = mount(handler_of(body))
    with (
        expect_log("onfinish.handlers", r"ConcurrentUse: POST Handler(.|\n)*asyncio\.gather"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_a_refused_second_run_does_not_disturb_the_first(mount: Mount, notes: Notes):
    """A handler that catches the refusal goes on with the work that was under way."""

    async def body(handler: ApiHandler) -> None:
        first = asyncio.ensure_future(handler.run(add_note, handler.session, text="one"))
        await asyncio.sleep(0)
        with pytest.raises(ConcurrentUse):
            await handler.run(add_note, handler.session, text="two")
        await first

    answer = await mount(handler_of(body)).post("/")

    assert answer.code == 200
    assert notes() == ["one"]


async def test_a_session_cannot_be_used_after_its_request(mount: Mount, database: Database, notes: Notes):
    """A task that outlives its request finds a session that names the handler and the way out."""
    found: list[str] = []

    async def use_later(handler: ApiHandler) -> None:
        session = handler.session
        await until(lambda: not database.units)
        for use in (
            lambda: session.add(Note(text="late")),
            lambda: session.execute(select(Note)),
            lambda: session.new,
            lambda: session.commit(),
        ):
            with pytest.raises(SessionSettled, match=r"POST Handler(.|\n)*in_new_transaction") as caught:
                use()
            found.append(str(caught.value))
        with pytest.raises(SessionSettled, match=r"POST Handler(.|\n)*in_new_transaction"):
            await handler.run(add_note, session, text="late")

    tasks: list[asyncio.Task[None]] = []

    async def body(handler: ApiHandler) -> None:
        await handler.run(add_note, handler.session, text="written")
        tasks.append(asyncio.ensure_future(use_later(handler)))

    answer = await mount(handler_of(body)).post("/")
    await tasks[0]

    assert answer.code == 200
    assert len(found) == 4
    assert notes() == ["written"]


async def test_a_session_cannot_be_used_from_a_thread_of_the_handlers_own(
    mount: Mount, database: Database, notes: Notes
):
    """SQL is sent by the thread that `run` gave, and by no other, also while that one works."""
    caught: list[BaseException] = []

    def use(handler: ApiHandler) -> None:
        try:
            handler.session.execute(select(Note))
        except OutsideRun as error:
            caught.append(error)

    def start_thread(handler: ApiHandler) -> None:
        list_texts(handler.session)
        thread = threading.Thread(target=use, args=[handler])
        thread.start()
        thread.join()

    async def body(handler: ApiHandler) -> None:
        await asyncio.to_thread(use, handler)
        await handler.run(start_thread, handler)

    answer = await mount(handler_of(body)).post("/")

    assert answer.code == 200
    assert [type(error) for error in caught] == [OutsideRun, OutsideRun]
    assert "POST Handler" in str(caught[0])


async def test_sql_on_the_loop_is_refused(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """It would stop all requests: 500, and the log line says to write `await self.run(…)`."""

    async def body(handler: ApiHandler) -> None:
        handler.session.execute(select(Note))

    client = mount(handler_of(body))
    for method in ("GET", "POST"):
        with (
            expect_log("onfinish.handlers", rf"OutsideRun: {method} Handler(.|\n)*await self\.run"),
            expect_log("tornado.access", rf"^500 {method} "),
        ):
            answer = await client.request(method, "/", b"" if method == "POST" else None)
            assert lent(database) == {}
        assert answer.code == 500


async def test_sql_on_the_loop_is_refused_before_a_connection_is_asked_for(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """With every connection taken the loop does not stand still to hear that it must not ask."""

    async def body(handler: ApiHandler) -> None:
        handler.session.execute(select(Note))

    client = mount(handler_of(body))
    pool = database.reader.engine.pool
    there = greenlet_spawn if database.reader.backend.is_async else asyncio.to_thread
    taken = [await there(pool.connect) for _ in range(2)]
    try:
        began = own_time()
        with expect_log("onfinish.handlers", r"OutsideRun"), expect_log("tornado.access", r"^500 "):
            answer = await client.get("/")
        took_s = own_time() - began
    finally:
        for connection in taken:
            await there(connection.close)

    assert answer.code == 500
    assert took_s < 0.8  # the pool would have waited for a second


async def test_a_lazy_load_on_the_loop_is_refused(
    mount: Mount, database: Database, notes: Notes, sql: RawSql, expect_log: ExpectLog
):
    """An attribute that loads when it is looked at sends SQL too; the message says so."""
    sql("INSERT INTO notes (id, text) VALUES (1, 'parent')")
    sql("INSERT INTO notes (id, text, parent_id) VALUES (2, 'child', 1)")

    async def body(handler: ApiHandler) -> None:
        note = await handler.run(get_note, handler.session, text="child")
        assert note.parent is not None

    client = mount(handler_of(body))
    with (
        expect_log("onfinish.handlers", r"OutsideRun: GET Handler(.|\n)*loads lazily"),
        expect_log("tornado.access", r"^500 GET"),
    ):
        answer = await client.get("/")
        assert lent(database) == {}

    assert answer.code == 500


@pytest.mark.parametrize("method", ["commit", "rollback", "close", "begin"])
async def test_model_code_cannot_end_the_session(
    method: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """It belongs to the request: half of it would be kept, or silently dropped."""

    def end_it(handler: ApiHandler) -> None:
        add_note(handler.session, text="written")
        getattr(handler.session, method)()

    async def body(handler: ApiHandler) -> None:
        with pytest.raises(SessionNotOwned, match=rf"POST Handler: `session\.{method}\(\)`"):
            await handler.run(end_it, handler)
        raise SessionNotOwned("again, for the log")

    client = mount(handler_of(body))
    with expect_log("onfinish.handlers", r"SessionNotOwned"), expect_log("tornado.access", r"^500 "):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_a_second_unit_of_work_in_a_request_is_refused(mount: Mount, database: Database, notes: Notes):
    """With all slots taken, both would wait for ever: refused while there is room, so that it is noticed."""

    def in_the_thread(handler: ApiHandler) -> None:
        with (
            pytest.raises(NestedUnitOfWork, match=r"POST Handler(.|\n)*in_new_transaction"),
            database.session_scope(),
        ):
            pass

    async def body(handler: ApiHandler) -> None:
        await handler.run(add_note, handler.session, text="written")
        async with database.unit_of_work(label="another", read_only=True) as unit:
            with pytest.raises(
                NestedUnitOfWork, match=r"another(.|\n)*POST Handler(.|\n)*in_new_transaction"
            ):
                await unit.run(list_texts, unit.session)
        await handler.run(in_the_thread, handler)

    handler = handler_of(body)
    handler.executor = "threads"
    answer = await mount(handler).post("/")
    assert lent(database) == {}

    assert answer.code == 200
    assert notes() == ["written"]


async def test_a_session_scope_on_the_loop_is_refused(mount: Mount, database: Database):
    """The scope of scripts waits; on the loop it names the one that does not."""

    async def body(handler: ApiHandler) -> None:
        with pytest.raises(OutsideRun, match=r"unit_of_work\(\)"), database.session_scope():
            pass

    answer = await mount(handler_of(body)).get("/")

    assert answer.code == 200


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_get_that_writes_is_refused_by_the_database(
    flushed: bool, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """500, nothing kept, a log line that names the handler and the way out; also for what is only added."""

    async def body(handler: ApiHandler) -> None:
        if flushed:
            await handler.run(add_note, handler.session, text="written")
        else:
            handler.session.add(Note(text="written"))

    client = mount(handler_of(body))
    with (
        expect_log(
            "onfinish.handlers", r"GET Handler: a write(.|\n)*in_new_transaction(.|\n)*read_only = False"
        ),
        expect_log("tornado.access", r"^500 GET / .* undone "),
    ):
        answer = await client.get("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert answer.json()["outcome"] == "not_applied"
    assert notes() == []


@pytest.mark.parametrize(("method", "read_only", "status"), [("GET", False, 200), ("POST", True, 500)])
async def test_a_handler_may_say_whether_it_reads(
    method: str, read_only: bool, status: int, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """``read_only`` on the handler, for a GET that writes and a POST that searches."""

    async def body(handler: ApiHandler) -> None:
        await handler.run(add_note, handler.session, text="written")

    handler = handler_of(body)
    handler.read_only = read_only
    client = mount(handler)
    with (
        expect_log("onfinish.handlers", r"a write in a read-only", required=status == 500),
        expect_log("tornado.access", r"^500 ", required=status == 500),
    ):
        answer = await client.request(method, "/", b"" if method == "POST" else None)

    assert answer.code == status
    assert notes() == (["written"] if status == 200 else [])


async def hold_all_writers(database: Database, taken: asyncio.Event, hold: asyncio.Event) -> None:
    """Take every slot of the writer until the event is set."""

    async def hold_one() -> None:
        async with database.unit_of_work(label="holder") as unit:
            await unit.run(lambda: None)
            if database.writer.limiter.taken == database.writer.limiter.size:
                taken.set()
            await hold.wait()

    await asyncio.gather(*(hold_one() for _ in range(database.writer.limiter.size)))


async def test_a_run_that_is_left_behind_in_the_queue_takes_no_slot_and_fails_the_request(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A task that was not awaited waits for a slot when its request ends: it must not get one.

    It would never be given back. Nothing of it has run, so no success is told.
    """
    taken, hold = asyncio.Event(), asyncio.Event()
    left_behind: list[asyncio.Future[int]] = []

    async def body(handler: ApiHandler) -> None:
        left_behind.append(asyncio.ensure_future(handler.run(add_note, handler.session, text="forgotten")))
        await asyncio.sleep(0.05)

    client = mount(handler_of(body))
    holders = asyncio.ensure_future(hold_all_writers(database, taken, hold))
    await taken.wait()
    with (
        expect_log("onfinish.handlers", r"`run\(add_note, …\)` in .*misuse.py, line \d+, was not awaited"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/", request_timeout=5)
    hold.set()
    await holders
    with pytest.raises(SessionSettled, match="POST Handler"):
        await left_behind[0]

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert await all_back(database, within_s=0.5) == {}
    assert notes() == []


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("first", [True, False])
async def test_a_run_that_is_not_awaited_fails_the_request_and_names_the_line(
    first: bool, method: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The forgotten ``await``: nothing of it has run, so a 201 would be a lie."""

    async def body(handler: ApiHandler) -> None:
        if not first:
            await handler.run(list_texts, handler.session)
        handler.run(add_note, handler.session, text="forgotten")  # type: ignore[unused-coroutine]
        handler.set_status(201)

    line = body.__code__.co_firstlineno + 3
    client = mount(handler_of(body))
    told = rf"{method} Handler: `run\(add_note, …\)` in .*test_misuse.py, line {line}, was not awaited"
    with (
        expect_log("onfinish.handlers", told),
        expect_log("tornado.access", rf"^500 {method} / .* undone "),
    ):
        answer = await client.request(method, "/", b"" if method == "POST" else None)

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert "add_note" not in answer.body.decode()
    assert lent(database) == {}
    assert notes() == []


async def test_a_run_that_is_not_awaited_fails_an_early_commit(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    async def body(handler: ApiHandler) -> None:
        await handler.run(add_note, handler.session, text="written")
        handler.run(add_note, handler.session, text="forgotten")  # type: ignore[unused-coroutine]
        await handler.commit()

    client = mount(handler_of(body))
    with expect_log("onfinish.handlers", r"was not awaited"), expect_log("tornado.access", r"^500 "):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_run_that_is_not_awaited_in_prepare_fails_a_request_with_a_key(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """There `run` waits for its turn under the key first, and names its caller's line all the same."""

    class Handler(IdempotentHandler, ApiHandler):
        def prepare(self) -> None:
            super().prepare()
            self.run(add_note, self.session, text="forgotten")  # type: ignore[unused-coroutine]

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.write_json({}, 201)

    line = Handler.prepare.__code__.co_firstlineno + 2
    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", rf"`run\(add_note, …\)` in .*test_misuse.py, line {line}, was not"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/", headers={"Idempotency-Key": "k"})
        gc.collect()

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert lent(database) == {}
    assert notes() == []


@pytest.mark.every_driver
async def test_a_run_that_was_cancelled_before_its_first_step_was_not_forgotten(mount: Mount, notes: Notes):
    """As `asyncio.wait_for` does whose time is up already, up to Python 3.11."""

    async def body(handler: ApiHandler) -> None:
        cut_short = asyncio.create_task(handler.run(add_note, handler.session, text="cut short"))
        cut_short.cancel()
        await asyncio.wait([cut_short])
        await handler.run(add_note, handler.session, text="written")
        handler.set_status(201)

    answer = await mount(handler_of(body)).post("/")

    assert answer.code == 201
    assert notes() == ["written"]


@pytest.mark.parametrize("raises", [True, False])
async def test_rows_that_were_only_added_are_let_go_when_there_is_no_slot(
    raises: bool, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Added without a `run`, the pool full: 503 where they were to be kept, at once where they were not.

    The session is closed either way, and the garbage collector has no warning about it.
    """
    taken, hold = asyncio.Event(), asyncio.Event()

    async def body(handler: ApiHandler) -> None:
        handler.session.add(Note(text="written"))
        if raises:
            handler.send_error(404)

    client = mount(handler_of(body))
    holders = asyncio.ensure_future(hold_all_writers(database, taken, hold))
    await taken.wait()
    with (
        warnings.catch_warnings(record=True) as caught,
        expect_log("onfinish.handlers", r"^503 .*slots for writer", required=not raises),
        expect_log("tornado.access", rf"^{404 if raises else 503} POST / .* undone ", level=20),
    ):
        warnings.simplefilter("always")
        began = own_time()
        answer = await client.post("/", request_timeout=5)
        took_s = own_time() - began
        gc.collect()
    hold.set()
    await holders

    assert answer.code == (404 if raises else 503)
    assert took_s < (0.8 if raises else 2.0)
    assert [warning for warning in caught if issubclass(warning.category, ResourceWarning)] == []
    assert await all_back(database) == {}
    assert notes() == []
