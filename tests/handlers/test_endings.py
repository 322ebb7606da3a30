"""Odd ways of ending a request or its session: none keeps what is refused, or loses what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session
from tornado import gen

from handlers import ApiHandler, Problem
from handlers.idempotency import IdempotentHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import add_note

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]


def poster(work: Callable[[Session], object]) -> type[ApiHandler]:
    """A handler whose POST gives one function to `run`, and answers 201."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(work, self.session)
            self.set_status(201)

    return Handler


def reset(session: Session) -> None:
    add_note(session, text="lost")
    session.reset()


def invalidate(session: Session) -> None:
    add_note(session, text="lost")
    session.invalidate()


def roll_back_the_transaction(session: Session) -> None:
    add_note(session, text="lost")
    transaction = session.get_transaction()
    assert transaction is not None
    transaction.rollback()


def commit_the_transaction(session: Session) -> None:
    add_note(session, text="kept")
    transaction = session.get_transaction()
    assert transaction is not None
    transaction.commit()


def commit_the_connection(session: Session) -> None:
    add_note(session, text="kept")
    session.connection().commit()


def commit_past_the_guard(session: Session) -> None:
    add_note(session, text="kept")
    Session.commit(session)


async def write_asynchronously(session: Session) -> None:
    add_note(session, text="never")


@pytest.mark.parametrize(
    "work",
    [
        reset,
        invalidate,
        roll_back_the_transaction,
        commit_the_transaction,
        commit_the_connection,
        commit_past_the_guard,
        write_asynchronously,
    ],
)
async def test_a_session_is_ended_by_its_unit_of_work_alone(
    mount: Mount, notes: Notes, expect_log: ExpectLog, work: Callable[[Session], object]
):
    """201 for what was rolled back by others would be a lie, and so would 500 for what they committed."""
    with (
        expect_log("onfinish.handlers", "POST Handler"),
        expect_log("tornado.access", "^500 POST / .* undone "),
    ):
        answer = await mount(poster(work)).post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []


async def test_a_hook_that_fails_after_the_commit_undoes_nothing(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The work is applied, and the client is told so; what the hook raised is in the log."""

    def add_with_hook(session: Session) -> None:
        add_note(session, text="kept")

        @event.listens_for(session, "after_commit")
        def too_late(session: Session) -> None:
            session.execute(text("SELECT 1"))

    with (
        expect_log("onfinish.db", "a hook after the commit failed"),
        expect_log("onfinish.db", "thrown away", required=False),  # the session is stuck in its commit
    ):
        answer = await mount(poster(add_with_hook)).post("/")

    assert answer.code == 201
    assert notes() == ["kept"]


async def test_every_function_for_before_the_commit_is_called_in_order(mount: Mount, notes: Notes):
    class Handler(ApiHandler):
        async def post(self) -> None:
            for note in ("one", "two"):
                self.before_commit(add_note, text=note)
            self.set_status(201)

    assert (await mount(Handler).post("/")).code == 201
    assert notes() == ["one", "two"]


async def test_a_refusal_before_the_commit_undoes_the_request(mount: Mount, notes: Notes):
    def refuse(session: Session) -> None:
        raise Problem(409, "not like this")

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="undone")
            self.before_commit(refuse)
            self.before_commit(add_note, text="after it")
            self.set_status(201)

    assert (await mount(Handler).post("/")).code == 409
    assert notes() == []


@pytest.fixture
def keys(backend: str, sql: RawSql) -> None:
    """The table of idempotency keys is the board's own; these handlers share its database."""
    assert sql("SELECT count(*) AS n FROM idempotency_keys") == [{"n": 0}]


async def test_an_idempotency_key_does_not_push_a_handlers_own_check_aside(
    mount: Mount, notes: Notes, keys: None
):
    def refuse(session: Session) -> None:
        raise Problem(409, "not like this")

    class Handler(IdempotentHandler, ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="undone")
            self.before_commit(refuse)
            self.set_status(201)

    answer = await mount(Handler).post("/", headers={"Idempotency-Key": "a"})

    assert answer.code == 409
    assert notes() == []


async def test_an_idempotency_key_counts_whatever_becomes_of_what_prepare_returns(
    mount: Mount, notes: Notes, keys: None
):
    """Nothing hangs on its being awaited: the same key does the work once."""

    class Handler(IdempotentHandler, ApiHandler):
        async def prepare(self) -> None:
            super().prepare()  # and dropped

        async def post(self) -> None:
            await self.run(add_note, self.session, text="once")
            self.set_status(201)

    client = mount(Handler)
    answers = [await client.post("/", headers={"Idempotency-Key": "a"}) for _ in range(2)]

    assert [answer.code for answer in answers] == [201, 201]
    assert notes() == ["once"]


async def awaits(handler: Any) -> None:
    waiting = ApiHandler.prepare(handler)
    assert waiting is not None
    await waiting


def plain(handler: Any) -> Any:
    ApiHandler.prepare(handler)


@gen.coroutine
def generator(handler: Any) -> Generator[Any, Any, None]:
    yield ApiHandler.prepare(handler)


@pytest.mark.parametrize("form", [awaits, plain, generator])
async def test_the_prepare_below_may_be_awaited_or_not(
    mount: Mount, notes: Notes, form: Callable[[Any], Awaitable[None]]
):
    class Handler(ApiHandler):
        prepare = form

        async def post(self) -> None:
            await self.run(add_note, self.session, text="kept")

    assert (await mount(Handler).post("/")).code == 200
    assert notes() == ["kept"]


async def test_a_prepare_that_comes_too_late_is_refused(mount: Mount, notes: Notes, expect_log: ExpectLog):
    """Past a yield there is no task of the request's whose end would be noticed."""

    class Handler(ApiHandler):
        @gen.coroutine
        def prepare(self) -> Generator[Any, Any, None]:
            yield gen.moment
            super().prepare()

        def post(self) -> None:
            self.set_status(201)

    with expect_log("onfinish.handlers", "before anything is awaited"), expect_log("tornado.access", "^500"):
        assert (await mount(Handler).post("/")).code == 500


@pytest.mark.parametrize("how", ["late finish", "on_finish twice"])
async def test_a_request_has_one_answer(mount: Mount, notes: Notes, how: str, expect_log: ExpectLog):
    """A second one would be read as the answer to the connection's next request."""

    class Handler(ApiHandler):
        def post(self) -> None:
            if how == "late finish":
                self._auto_finish = False
                asyncio.get_running_loop().call_later(0.05, self.finish, "BELATED")
            else:
                self.finish("first")

        def on_finish(self) -> None:
            super().on_finish()
            super().on_finish()

    client = mount(Handler)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    with (
        expect_log("onfinish|tornado", "", required=False),
        expect_log("", "without a response|500", required=False),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        sent = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert sent.count(b"HTTP/1.1 ") == 2
    assert b"BELATED" not in sent
