"""`ContextvarHandler`: model code finds its session, or is refused by an error that names the way out."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tornado import gen
from tornado.ioloop import IOLoop
from tornado.web import Application, HTTPError, stream_request_body

from db import Database
from db.errors import ConcurrentUse, NoSession, OutsideRun, UsageError
from db.scope import current_session, entered
from handlers import (
    ApiHandler,
    ContextvarHandler,
    ContextvarWebSocketHandler,
    IdempotentHandler,
    SessionHandler,
    log_request,
)
from tests.fixtures.server import Serve
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import Note, add_note, list_texts
from tests.handlers.test_websocket import ask, connected

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]


def write(*, text: str) -> int:
    """Model code: nothing is passed to it, and it sends SQL."""
    return add_note(current_session(), text=text)


def add(text: str) -> None:
    """Model code that sends no SQL before the commit."""
    current_session().add(Note(text=text))


def raised_by(function: Callable[[], object]) -> UsageError | None:
    try:
        function()
    except UsageError as error:
        return error
    return None


class Base(ContextvarHandler, ApiHandler):
    """What applications derive their handlers from."""


@pytest.mark.parametrize("bases", [(), (ApiHandler,), (IdempotentHandler,)], ids=["own", "api", "idempotent"])
async def test_model_code_finds_the_session_of_its_request(
    bases: tuple[type[SessionHandler], ...], mount: Mount, notes: Notes
):
    """On the event loop and through ``run``, under each face: committed before the answer."""

    class Handler(ContextvarHandler, *bases):  # type: ignore[misc]
        async def prepare(self) -> None:
            await super().prepare()
            self.before = await self.run(lambda: list_texts(current_session()))

        async def post(self) -> None:
            add("on the loop")
            await self.run(write, text="through run")
            await self.run(add_note, self.session, text="passed")
            assert current_session() is self.session
            self.write({"texts": await self.run(lambda: list_texts(current_session()))})

    client = mount(Handler)
    first = await client.post("/", headers={"Idempotency-Key": "one"})
    again = (
        await client.post("/", headers={"Idempotency-Key": "one"}) if IdempotentHandler in bases else first
    )

    assert first.code == 200, first.body
    assert again.json() == first.json()
    assert notes() == first.json()["texts"] == ["on the loop", "through run", "passed"]


async def test_what_is_refused_is_undone(mount: Mount, notes: Notes):
    class Handler(Base):
        async def post(self) -> None:
            await self.run(write, text="row")
            raise HTTPError(409)

    answer = await mount(Handler).post("/")

    assert (answer.code, notes()) == (409, [])


async def test_requests_at_once_find_each_its_own(mount: Mount, notes: Notes):
    class Handler(Base):
        async def post(self) -> None:
            name = self.get_query_argument("name")
            current_session().info["name"] = name
            await all_here.wait()
            assert current_session().info["name"] == name
            add(name)

    all_here = asyncio.Barrier(3)
    client = mount(Handler)
    await asyncio.gather(*(client.post(f"/?name={name}") for name in "abc"))

    assert sorted(notes()) == ["a", "b", "c"]


async def test_functions_round_the_commit_find_the_session_they_are_passed(mount: Mount, notes: Notes):
    """The last work is the request's ; the audit has a transaction of its own, and is kept."""

    class Handler(Base):
        async def post(self) -> None:
            self.before_commit(lambda session: write(text="last"))
            self.in_new_transaction(lambda session: write(text="audit"))

    class Refused(Base):
        async def post(self) -> None:
            self.in_new_transaction(lambda session: write(text="audit of the refusal"))
            await self.run(write, text="row")
            raise HTTPError(409)

    await mount(Handler).post("/")
    await mount(Refused).post("/")

    assert notes() == ["last", "audit", "audit of the refusal"]


# -- what is refused


async def test_outside_of_a_request_there_is_none(database: Database, notes: Notes):
    """The error names how a job has one; in that, model code finds it, and after it there is none again."""
    refused = contextvars.Context().run(raised_by, current_session)

    async def job() -> UsageError | None:
        async with database.unit_of_work(label="nightly") as unit:
            with entered(unit.session):
                await unit.run(write, text="row")
            return raised_by(current_session)

    afterwards = await asyncio.create_task(job(), context=contextvars.Context())

    assert isinstance(refused, NoSession)
    assert "no session in this context" in str(refused)
    assert "`with entered(unit.session)`" in str(refused)
    assert isinstance(afterwards, NoSession)
    assert str(afterwards).startswith("nightly: has ended")
    assert notes() == ["row"]


async def test_behind_finish_there_is_none(mount: Mount, notes: Notes):
    """In the method itself, in a callback and in a timer: the error names the request, and the way out."""
    found: list[UsageError | None] = []
    done = asyncio.Event()

    class Handler(Base):
        async def post(self) -> None:
            self.finish()
            found.append(raised_by(lambda: add("late")))
            IOLoop.current().add_callback(later)

    def later() -> None:
        found.append(raised_by(lambda: add("late")))
        asyncio.get_running_loop().call_later(0.01, last)

    def last() -> None:
        found.append(raised_by(lambda: add("late")))
        done.set()

    assert (await mount(Handler).post("/")).code == 200
    await done.wait()

    assert [type(error) for error in found] == [NoSession] * 3
    for error in found:
        assert str(error).startswith("POST Handler")
        assert "has ended" in str(error)
        assert "`self.in_new_transaction(…)`" in str(error)
    assert notes() == []


async def test_the_error_names_the_request_where_another_session_was_left_before_it(mount: Mount):
    """As by a job in the context that the server was started in."""
    found: list[UsageError | None] = []

    class Handler(Base):
        async def post(self) -> None:
            self.finish()
            found.append(raised_by(lambda: add("late")))

    with entered(Session()):
        pass
    await mount(Handler).post("/")

    assert [str(error).partition(":")[0] for error in found] == ["POST Handler"]


async def test_a_task_of_the_request_does_not_find_it(mount: Mount, notes: Notes):
    """Neither while the request is open, when it may work for others, nor when it has outlived it."""
    found: list[UsageError | None] = []
    over = asyncio.Event()

    class Handler(Base):
        async def post(self) -> None:
            tasks.append(asyncio.create_task(worker()))
            await first.wait()
            await asyncio.create_task(self.through_run())

        async def through_run(self) -> None:
            await self.run(write, text="through run")

    async def worker() -> None:
        found.append(raised_by(lambda: add("open")))
        first.set()
        await over.wait()
        found.append(raised_by(lambda: add("over")))

    first = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    assert (await mount(Handler).post("/")).code == 200
    over.set()
    await tasks[0]

    assert [type(error) for error in found] == [NoSession] * 2
    assert "in another task, which may outlive it or work for other requests" in str(found[0])
    assert "has ended" in str(found[1])
    assert notes() == ["through run"]


async def test_a_worker_that_the_first_request_starts_works_for_none_of_them(mount: Mount, notes: Notes):
    """Refused, where a variable that is copied with the context has B's row undone with A."""
    jobs: asyncio.Queue[tuple[str, asyncio.Future[UsageError | None]]] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []

    class Handler(Base):
        async def post(self) -> None:
            if not tasks:
                tasks.append(asyncio.create_task(worker()))
            result: asyncio.Future[UsageError | None] = asyncio.get_running_loop().create_future()
            jobs.put_nowait((self.get_query_argument("name"), result))
            await both.wait()
            if error := await result:
                self.set_status(202)
                self.write(type(error).__name__)

    async def worker() -> None:
        for _ in range(2):
            name, result = await jobs.get()
            result.set_result(raised_by(lambda name=name: add(name)))  # type: ignore[misc]

    both = asyncio.Barrier(2)
    client = mount(Handler)
    answers = await asyncio.gather(client.post("/?name=A"), client.post("/?name=B"))
    await tasks[0]

    assert [(answer.code, answer.body) for answer in answers] == [(202, b"NoSession")] * 2
    assert notes() == []


async def test_a_thread_finds_none_or_may_not_use_it(mount: Mount, notes: Notes):
    """`run_in_executor` has not the context; `to_thread` has, and is no `run`. Both errors name that."""
    found: list[UsageError | None] = []

    class Handler(Base):
        async def post(self) -> None:
            loop = asyncio.get_running_loop()
            found.append(await loop.run_in_executor(None, raised_by, lambda: write(text="row")))
            found.append(await asyncio.to_thread(raised_by, lambda: add("row")))

    await mount(Handler).post("/")

    assert [type(error) for error in found] == [NoSession, OutsideRun]
    assert all("await self.run(function" in str(error) for error in found)
    assert notes() == []


async def test_two_calls_at_once_are_refused(mount: Mount, notes: Notes):
    """The second of a `gather`; the first goes on."""
    found: list[Any] = []

    class Handler(Base):
        async def post(self) -> None:
            calls = [self.run(write, text="one"), self.run(write, text="two")]
            found.extend(await asyncio.gather(*calls, return_exceptions=True))

    await mount(Handler).post("/")

    assert [type(each) for each in found] == [int, ConcurrentUse]
    assert notes() == ["one"]


async def test_hooks_outside_of_the_requests_context_are_refused(mount: Mount, notes: Notes):
    """A `prepare` under @gen.coroutine, and `data_received`: on the loop refused, through ``run`` found."""
    found: list[UsageError | None] = []

    @stream_request_body
    class Handler(Base):
        @gen.coroutine
        def prepare(self) -> Any:
            super().prepare()
            yield gen.sleep(0)

        async def data_received(self, chunk: bytes) -> None:
            found.append(raised_by(lambda: add("row")))
            await self.run(write, text="chunk")

        async def post(self) -> None:
            found.append(raised_by(lambda: add("row")))
            await self.run(write, text="post")

    answer = await mount(Handler).post("/", b"body")

    assert answer.code == 200
    assert [type(error) for error in found] == [NoSession] * 2
    assert notes() == ["chunk", "post"]


# -- WebSockets


async def test_each_message_of_a_socket_has_its_own(serve: Serve, database: Database, notes: Notes):
    """Committed before its reply; a refused one is undone, and between messages there is none."""
    found: list[UsageError | None] = []

    class Socket(ContextvarWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(write, text=str(message))
            assert current_session() is self.session
            if message == "bad":
                raise HTTPError(409)
            self.write_message({"done": str(message)})
            IOLoop.current().add_callback(later)

    def later() -> None:
        found.append(raised_by(lambda: add("late")))

    client = serve(Application([("/", Socket)], database=database, log_function=log_request))
    async with connected(client.port) as socket:
        first = await ask(socket, "one")
        refused = await ask(socket, "bad")
        second = await ask(socket, "two")

    assert (first, refused["status"], second) == ({"done": "one"}, 409, {"done": "two"})
    assert notes() == ["one", "two"]
    assert [type(error) for error in found] == [NoSession] * 2
