"""Clients that leave before they are answered."""

from __future__ import annotations

import asyncio
import logging

import pytest

from conf import DatabaseSettings
from db import Database
from db.errors import RetryableConflict
from handlers import ApiHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import add_note, list_texts, take_long
from tests.handlers.waiting import until
from tests.handlers.wire import Wire

pytestmark = pytest.mark.gen_test


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One slot each, so that what is not given back is missed at once."""
    return DatabaseSettings(url=database_url, pool_size=1)


async def ask_and_leave(port: int, method: str, begun: asyncio.Event) -> None:
    """Send a request, and reset the connection once its handler has begun."""
    async with Wire(port) as wire:
        wire.send(f"{method} / HTTP/1.1", "Content-Length: 0")
        await begun.wait()
        await asyncio.sleep(0.05)
        wire.leave()


async def test_a_read_whose_client_leaves_is_cancelled_in_the_database(
    backend: str, mount: Mount, database: Database, sql: RawSql, expect_log: ExpectLog
):
    """The answer cannot be read: the statement is cancelled, and everything back in two seconds."""
    begun = asyncio.Event()

    class Handler(ApiHandler):
        async def get(self) -> None:
            begun.set()
            await self.run(take_long, self.session)

    client = mount(Handler)
    with expect_log("tornado.access", r"^499 GET / .* undone ", level=logging.INFO) as lines:
        await ask_and_leave(client.port, "GET", begun)
        assert await all_back(database) == {}
        await until(lambda: lines)

    if backend == "postgresql":
        query = (
            "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active'"
        )
        assert sql(f"{query} AND pid <> pg_backend_pid()") == [{"n": 0}]


async def test_a_read_that_waits_for_something_else_gives_its_connection_back_at_once(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """Its client has left while it sleeps: it goes on, without a connection."""
    begun, held = asyncio.Event(), []

    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(list_texts, self.session)
            begun.set()
            await asyncio.sleep(0.4)
            held.append(lent(database))

    client = mount(Handler)
    with (
        expect_log("tornado.access", r"^\d+ GET / ", level=logging.INFO) as lines,
        expect_log("onfinish.handlers", r"ClientDisconnected", required=False),
    ):
        await ask_and_leave(client.port, "GET", begun)
        await until(lambda: lines)

    assert held == [{}]


async def test_a_write_whose_client_leaves_runs_to_its_end_and_is_kept(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A client that goes away cannot know how far it got, and half of its work is worse than all."""
    begun = asyncio.Event()

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="first")
            begun.set()
            await asyncio.sleep(0.2)
            await self.run(add_note, self.session, text="second")

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO) as lines:
        await ask_and_leave(client.port, "POST", begun)
        await until(lambda: lines)
        assert lent(database) == {}

    assert notes() == ["first", "second"]


async def test_a_write_may_say_that_it_goes_with_its_client(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """``cancel_on_disconnect = True``: its statement is cancelled, and nothing is kept."""
    begun = asyncio.Event()

    class Handler(ApiHandler):
        cancel_on_disconnect = True

        async def post(self) -> None:
            await self.run(add_note, self.session, text="first")
            begun.set()
            await self.run(take_long, self.session)

    client = mount(Handler)
    with expect_log("tornado.access", r"^499 POST / .* undone ", level=logging.INFO) as lines:
        await ask_and_leave(client.port, "POST", begun)
        assert await all_back(database) == {}
        await until(lambda: lines)

    assert notes() == []


async def test_a_read_may_say_that_it_goes_on(mount: Mount, database: Database, expect_log: ExpectLog):
    """``cancel_on_disconnect = False``: a read that fills a cache, say, runs to its end."""
    begun, found = asyncio.Event(), []

    class Handler(ApiHandler):
        cancel_on_disconnect = False

        async def get(self) -> None:
            begun.set()
            await asyncio.sleep(0.2)
            found.append(await self.run(list_texts, self.session))

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 GET / .* read ", level=logging.INFO) as lines:
        await ask_and_leave(client.port, "GET", begun)
        await until(lambda: lines)

    assert found == [[]]


async def test_a_write_whose_client_has_left_is_run_again_all_the_same(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A conflict after the client has gone: the write still runs to its end."""
    begun = asyncio.Event()
    attempts: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(1)
            await self.run(add_note, self.session, text="written")
            begun.set()
            await asyncio.sleep(0.15)
            if len(attempts) == 1:
                raise RetryableConflict("deadlock")

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO) as lines:
        await ask_and_leave(client.port, "POST", begun)
        await until(lambda: lines)

    assert attempts == [1, 1]
    assert notes() == ["written"]


async def test_a_refusal_whose_client_has_left_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The error answer has no reader; nothing is kept, and nothing breaks."""
    begun = asyncio.Event()

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=404)
            begun.set()
            await asyncio.sleep(0.15)

    client = mount(Handler)
    with expect_log("tornado.access", r"^409 POST / .* undone ", level=logging.INFO) as lines:
        await ask_and_leave(client.port, "POST", begun)
        await until(lambda: lines)
        assert lent(database) == {}

    assert notes() == []


async def test_an_awaited_finish_raises_when_the_client_has_left(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """``await self.finish()`` ends with an error, as Tornado's own does; the write is kept."""
    begun = asyncio.Event()
    ends: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            begun.set()
            await asyncio.sleep(0.15)
            try:
                async with asyncio.timeout(2):
                    await self.finish("done")
            except Exception as error:  # noqa: BLE001  # which one is what is asked
                ends.append(type(error).__name__)

    client = mount(Handler)
    await ask_and_leave(client.port, "POST", begun)
    await until(lambda: ends)

    assert ends == ["StreamClosedError"]
    assert notes() == ["written"]
