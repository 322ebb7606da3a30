"""What is raised that is no `Exception`: answered, logged and undone like any other fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from greenlet import GreenletExit
from sqlalchemy import event

from db import Database
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import add_note

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]


class Panic(BaseException):
    """As PyO3 raises it where Rust code panics, or gevent where a time-out passes."""


KINDS = [Panic, GreenletExit, SystemExit, KeyboardInterrupt]


def raising(kind: type[BaseException]) -> Callable[..., None]:
    """A function that raises it, whatever it is called with."""

    def function(*args: Any, **kwargs: Any) -> None:
        raise kind("on purpose")

    return function


async def in_run(handler: ApiHandler, fail: Callable[..., None]) -> None:
    await handler.run(fail, handler.session)


async def before_commit(handler: ApiHandler, fail: Callable[..., None]) -> None:
    handler.before_commit(fail)


async def before_an_early_commit(handler: ApiHandler, fail: Callable[..., None]) -> None:
    handler.before_commit(fail)
    await handler.commit()


async def in_a_flush_at_the_end(handler: ApiHandler, fail: Callable[..., None]) -> None:
    handler.before_commit(lambda session: event.listen(session, "before_flush", fail))
    handler.before_commit(add_note, text="flushed at the end")


async def in_a_hook_before_commit(handler: ApiHandler, fail: Callable[..., None]) -> None:
    event.listen(handler.session, "before_commit", fail)


Place = Callable[[ApiHandler, Callable[..., None]], Awaitable[None]]
PLACES: list[Place] = [
    in_run,
    before_commit,
    before_an_early_commit,
    in_a_flush_at_the_end,
    in_a_hook_before_commit,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_it_is_answered_logged_and_undone(
    place: Place,
    kind: type[BaseException],
    mount: Mount,
    database: Database,
    notes: Notes,
    expect_log: ExpectLog,
):
    """500, nothing kept, everything back, and the process goes on."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await place(self, raising(kind))
            self.set_status(201)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", rf"raised {kind.__name__}"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/", request_timeout=10)

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []
    assert await all_back(database) == {}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_afterwards_it_is_logged_and_changes_nothing(
    kind: type[BaseException], mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The work is kept, the answer stands, and the next function is called."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.in_new_transaction(raising(kind))
            self.in_new_transaction(add_note, text="audit")
            self.set_status(201)

    client = mount(Handler)
    with expect_log("onfinish.db", r"POST Handler afterwards: failed"):
        answer = await client.post("/", request_timeout=10)
        assert lent(database) == {}

    assert answer.code == 201
    assert notes() == ["written", "audit"]


@pytest.mark.parametrize("kind", [Panic, GreenletExit], ids=lambda kind: kind.__name__)
async def test_after_the_commit_it_is_logged_and_the_next_function_is_called(
    kind: type[BaseException], mount: Mount, notes: Notes, expect_log: ExpectLog
):
    calls: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.on_commit(raising(kind))
            self.on_commit(calls.append, "the next one")
            self.set_status(201)

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"an on_commit function failed; the work stays committed"):
        answer = await client.post("/", request_timeout=10)
        await asyncio.sleep(0.05)

    assert answer.code == 201
    assert calls == ["the next one"]


@pytest.mark.parametrize("kind", [Panic, KeyError], ids=lambda kind: kind.__name__)
async def test_in_a_hook_behind_the_commit_it_is_logged_and_the_work_is_kept(
    kind: type[BaseException], mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The database has committed: to say anything else would be false."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            event.listen(self.session, "after_commit", raising(kind))
            self.set_status(201)

    client = mount(Handler)
    with (
        expect_log("onfinish.db", r"a hook after the commit failed; the work is kept|thrown away"),
        expect_log("tornado.access", r"^201 POST / .* kept ", level=20),
    ):
        answer = await client.post("/", request_timeout=10)

    assert answer.code == 201
    assert notes() == ["written"]
    assert lent(database) == {}


@pytest.mark.parametrize("hook", ["write_error", "log_exception"])
async def test_out_of_an_error_page_it_is_answered_as_well(
    hook: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """By a bare 500: another handler of the class would raise it again, and its client waited for ever."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            raise KeyError("on purpose")

    setattr(Handler, hook, raising(Panic))
    client = mount(Handler)
    with (
        expect_log("asyncio", r"Panic"),
        expect_log("onfinish.handlers", r"POST", required=False),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/", request_timeout=5)

    assert (answer.code, answer.body) == (500, b"")
    assert answer.headers["X-Request-Id"]
    assert notes() == []
    assert await all_back(database) == {}
