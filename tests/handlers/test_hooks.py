"""Tornado's hooks: in which order they run, when they do not, and what is given back all the same."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from functools import wraps
from typing import Any

import pytest
from tornado import gen
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from db import Database
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import NO_NOTE, add_note
from tests.handlers.waiting import until
from tests.handlers.wire import Wire

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

MULTIPART = "multipart/form-data"  # without its boundary it cannot be read


async def test_what_tornado_refuses_before_prepare_needs_no_session(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """An unknown method, a body that cannot be read, a missing XSRF token: refused as a problem.

    ``on_finish`` runs without ``prepare`` then; nothing was begun, and the access line says undone.
    """
    began: list[str] = []

    class Handler(ApiHandler):
        def prepare(self) -> None:
            began.append(self.request.method or "")
            super().prepare()

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client = mount(Handler, xsrf_cookies=True)
    token = {"Cookie": "_xsrf=2|00000000|00000000|1", "X-XSRFToken": "2|00000000|00000000|1"}
    with (
        expect_log("tornado.access", r"^40[035] .* undone ", level=logging.INFO) as lines,
        expect_log("onfinish.handlers", r"^40[03] ", level=logging.INFO),
    ):
        unknown = await client.request("BREW", "/", headers=token)
        unreadable = await client.post("/", b"--", headers={**token, "Content-Type": MULTIPART})
        forged = await client.post("/")
        assert lent(database) == {}

    assert [unknown.code, unreadable.code, forged.code] == [405, 400, 403]
    assert unknown.headers["Allow"] == "OPTIONS, POST"
    for answer in (unknown, unreadable, forged):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["outcome"] == "not_applied"
    assert began == []
    assert notes() == []
    assert len(lines) == 3


async def test_a_request_from_another_origin_needs_no_session(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The same for Tornado's cross-origin protection."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client = mount(Handler, cross_origin_protection=True)
    with expect_log("onfinish.handlers", r"^403 ", level=logging.INFO):
        answer = await client.post("/", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.code == 403
    assert lent(database) == {}
    assert notes() == []


async def test_a_method_that_is_not_there_opens_nothing(mount: Mount, database: Database):
    """405 for a method of HTTP that the handler does not have, with the ones it has."""

    class Handler(ApiHandler):
        def get(self) -> None:
            pass

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert lent(database) == {}


class Guarded(ApiHandler):
    """Has a log-in check in `prepare`; the body of its method must not run."""

    async def post(self) -> None:
        await self.run(add_note, self.session, text="the body ran")


class GuardedSync(Guarded):
    def prepare(self) -> None:
        super().prepare()
        self.session.add(_note("refused log-in"))  # flushed when it is settled: SQL needs `run`
        self.redirect("/login")


class GuardedAsync(Guarded):
    async def prepare(self) -> None:
        super().prepare()
        await self.run(add_note, self.session, text="refused log-in")
        self.redirect("/login")


class GuardedGenerator(Guarded):
    @gen.coroutine
    def prepare(self) -> Generator[Any, Any, None]:
        super().prepare()
        yield self.run(add_note, self.session, text="refused log-in")
        self.redirect("/login")


def _note(text: str) -> object:
    from tests.handlers.notes import Note

    return Note(text=text)


@pytest.mark.parametrize("handler", [GuardedSync, GuardedAsync, GuardedGenerator])
async def test_a_redirect_in_prepare_stops_the_method_and_keeps_what_was_written(
    handler: type[ApiHandler], mount: Mount, database: Database, notes: Notes
):
    """A log-in check that checks: after a redirect in `prepare` the method never runs.

    What `prepare` had written is kept.
    """
    answer = await mount(handler).post("/")
    assert lent(database) == {}

    assert (answer.code, answer.headers["Location"]) == (302, "/login")
    assert notes() == ["refused log-in"]


async def test_a_finish_in_prepare_stops_the_method(mount: Mount, database: Database, notes: Notes):
    """The same for a ``finish()`` with an error status, which keeps nothing."""

    class Handler(Guarded):
        async def prepare(self) -> None:
            super().prepare()
            await self.run(add_note, self.session, text="refused log-in")
            self.set_status(401)
            self.finish("who are you?")

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert (answer.code, answer.body) == (401, b"who are you?")
    assert notes() == []


async def test_a_commit_that_fails_behind_a_redirect_in_prepare_is_answered(
    mount: Mount, database: Database, notes: Notes
):
    """The redirect is dropped, the method does not run in the handler that answers either."""

    class Handler(Guarded):
        async def prepare(self) -> None:
            super().prepare()
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            self.redirect("/login")

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert answer.code == 409
    assert "Location" not in answer.headers
    assert notes() == []


async def test_an_error_in_prepare_undoes(mount: Mount, database: Database, notes: Notes):
    """An HTTPError in `prepare` after a write: answered, undone, the method not run."""

    class Handler(Guarded):
        async def prepare(self) -> None:
            super().prepare()
            await self.run(add_note, self.session, text="refused log-in")
            raise HTTPError(401)

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert answer.code == 401
    assert notes() == []


async def test_a_handler_that_awaits_for_ever_ends_at_its_deadline(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """``_auto_finish = False`` and an event that never comes: ``on_finish`` would never run."""

    class Handler(ApiHandler):
        timeout_s = 0.6  # which its first statement does not take

        async def post(self) -> None:
            self._auto_finish = False
            await self.run(add_note, self.session, text="written")
            await asyncio.Event().wait()

    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 504
    assert notes() == []


async def test_a_handler_that_ends_without_an_answer_is_answered_for(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """``_auto_finish = False`` and no ``finish()``: a 500 at once, nothing kept, the handler named."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            self._auto_finish = False
            await self.run(add_note, self.session, text="written")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"POST Handler .*ended without a response"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/", request_timeout=5)
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_detach_is_refused(mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog):
    """A detached connection has no end at which its session could be settled: 500, nothing kept."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.detach()

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"cannot detach(.|\n)*plain RequestHandler"),
        expect_log("onfinish.handlers", r"ended without a response"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/", request_timeout=5)
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


@pytest.mark.parametrize("status", [200, 409])
async def test_a_log_function_that_raises_loses_nothing(
    status: int, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The application's own ``log_function`` fails: the work is settled, the client answered all the same."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            parent_id = None if status == 200 else NO_NOTE
            await self.run(add_note, self.session, text="written", parent_id=parent_id)

    def log_function(handler: RequestHandler) -> None:
        raise OSError("the disk is full")

    client = mount(Handler, log_function=log_function)
    with expect_log("onfinish.handlers", r"POST Handler .*log_function failed"):
        answer = await client.post("/", request_timeout=5)

    assert answer.code == status
    assert lent(database) == {}
    assert notes() == (["written"] if status == 200 else [])


async def test_a_task_that_is_cancelled_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The request's task is cancelled: the client has a 500, and nothing is kept."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(5)

    client = mount(Handler)
    with expect_log("tornado.access", r"^500 POST / .* undone "):
        answer = await client.post("/", request_timeout=5)
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_a_task_that_is_cancelled_in_the_middle_of_a_statement_gives_it_back(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The thread runs on to the end of its call; its unit is settled then, and not before."""
    handlers: list[ApiHandler] = []

    class Handler(ApiHandler):
        executor = "threads"  # where the loop goes on while it sleeps

        async def post(self) -> None:
            handlers.append(self)
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.05, task.cancel)
            await self.run(self.add_slowly)

        def add_slowly(self) -> None:
            add_note(self.session, text="first")
            time.sleep(0.2)
            add_note(self.session, text="second")

    client = mount(Handler)
    with expect_log("tornado.access", r"^500 POST / .* undone ") as lines:
        answer = await client.post("/", request_timeout=5)
        await until(lambda: lines)  # which follows the answer
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_a_websocket_handler_cannot_be_one_of_these():
    """Its handshake cannot be held until a COMMIT: refused when the class is made, with the way out."""
    with pytest.raises(TypeError, match=r"Chat is a WebSocket handler(.|\n)*SessionWebSocketHandler"):
        type("Chat", (ApiHandler, WebSocketHandler), {})


@pytest.mark.parametrize("hook", ["prepare", "on_finish", "log_exception"])
async def test_a_hook_without_super_is_refused_when_the_class_is_made(hook: str):
    """The message names the class, the hook, and the line to add."""

    def forgetful(self: ApiHandler, *args: object) -> None:
        return None

    with pytest.raises(TypeError, match=rf"Forgetful\.{hook}\(\)(.|\n)*super\(\)\.{hook}\("):
        type("Forgetful", (ApiHandler,), {hook: forgetful})


async def test_a_hook_of_a_mixin_without_super_is_refused_too():
    """The mixin that hides the session's hook is the one that is named."""

    class Mixin:
        def on_finish(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Mixin\.on_finish\(\)"):
        type("Mixed", (Mixin, ApiHandler), {})


async def test_hooks_that_call_super_are_let_pass():
    """Plainly, by the base's name, from inside of a decorator, or in a class below one that does."""

    def decorated(function: Any) -> Any:
        @wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    class Plain(ApiHandler):
        def on_finish(self) -> None:
            super().on_finish()

    class ByName(ApiHandler):
        def on_finish(self) -> None:
            ApiHandler.on_finish(self)

    class Decorated(Plain):
        @decorated
        def prepare(self) -> None:
            super().prepare()

    class Asynchronous(Decorated):
        async def prepare(self) -> None:
            super().prepare()


def _opaque(hook: Any) -> Any:
    """A hook without code to look at, as a compiled one is."""

    class Opaque:
        def __get__(self, instance: object, owner: type) -> Any:
            return lambda *args: hook(instance, *args)

    return Opaque()


@pytest.mark.parametrize("hook", ["prepare", "on_finish"])
async def test_a_hook_that_was_not_seen_through_is_noticed_by_the_first_request(
    hook: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """No session was made, or it was not settled: nothing is kept; a 500 whose log line says what to add."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    setattr(Handler, hook, _opaque(lambda self: None))
    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", rf"Handler\.{hook}\(\)(.|\n)*super\(\)\.{hook}\(\)"),
        expect_log("tornado.access", r"^500 POST"),
    ):
        answer = await client.post("/", request_timeout=5)
        assert await all_back(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_a_log_exception_that_was_not_seen_through_undoes_all_the_same(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """What was raised is seen by ``send_error`` too, so nothing of a failed request is kept."""

    class Handler(ApiHandler):
        log_exception = _opaque(lambda self, *args: None)

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            raise HTTPError(302)

    answer = await mount(Handler).post("/")

    assert answer.code == 302
    assert lent(database) == {}
    assert notes() == []


async def test_each_hook_runs_once(mount: Mount, notes: Notes):
    """``on_finish`` runs once a handler; ``finish()`` is Tornado's own, and has finished when it returns."""
    calls: list[str] = []

    class Handler(ApiHandler):
        def prepare(self) -> None:
            calls.append("prepare")
            super().prepare()

        async def post(self) -> None:
            calls.append("post")
            self.finish()
            calls.append(f"finished: {self._finished}")

        def on_finish(self) -> None:
            calls.append("on_finish")
            super().on_finish()

    await mount(Handler).post("/")

    assert calls == ["prepare", "post", "on_finish", "finished: True"]


async def test_a_write_in_a_handlers_own_on_finish_is_kept(mount: Mount, database: Database, notes: Notes):
    """What is added to the session before ``super().on_finish()`` belongs to the request."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="first")

        def on_finish(self) -> None:
            self.session.add(_note("last"))
            super().on_finish()

    async with Wire(mount(Handler).port) as wire:
        wire.send("POST / HTTP/1.1", "Content-Length: 0")
        answer = await wire.answer()
        assert lent(database) == {}

    assert answer.code == 200
    assert notes() == ["first", "last"]
