"""Answers that leave while they are made: `streams = True`."""

from __future__ import annotations

import asyncio
import logging

import pytest

from db import Database
from handlers import ApiHandler
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import add_note, count_notes, take_long
from tests.handlers.waiting import until
from tests.handlers.wire import Wire

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

LAST_CHUNK = b"0\r\n\r\n"


class Counting(ApiHandler):
    """Sends how many notes there are, some times over."""

    streams = True
    times = 3

    async def get(self) -> None:
        for number in range(self.times):
            self.write(f"{await self.run(count_notes, self.session)};")
            await self.flush()
            await self.between(number)

    async def between(self, number: int) -> None:
        """What happens after each piece."""


async def ask(port: int) -> bytes:
    """All that comes for one GET, until the connection is closed."""
    async with Wire(port) as wire:
        wire.send("GET / HTTP/1.1", "Connection: close")
        return await wire.rest()


async def test_a_stream_leaves_while_it_is_made(mount: Mount, database: Database, expect_log: ExpectLog):
    """The first piece is with the client before the second one is made; the end is a proper one."""
    go_on = asyncio.Event()

    class Handler(Counting):
        async def between(self, number: int) -> None:
            await go_on.wait()

    client = mount(Handler)
    async with Wire(client.port) as wire:
        with expect_log("tornado.access", r"^200 GET / .* read ", level=logging.INFO) as lines:
            wire.send("GET / HTTP/1.1", "Connection: close")
            async with asyncio.timeout(5):
                begin = await wire.reader.readuntil(b"2\r\n0;\r\n")
            assert lent(database) != {}
            go_on.set()
            end = await wire.rest()
            await until(lambda: lines)

    assert begin.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Request-Id: " in begin
    assert b"\r\nTransfer-Encoding: chunked\r\n" in begin
    assert end == b"2\r\n0;\r\n2\r\n0;\r\n" + LAST_CHUNK
    assert await all_back(database) == {}


async def test_a_stream_sees_one_snapshot(mount: Mount, sql: RawSql):
    """What others commit meanwhile is not in it."""

    class Handler(Counting):
        async def between(self, number: int) -> None:
            sql("INSERT INTO notes (text) VALUES (:text)", text=f"theirs {number}")

    sent = await ask(mount(Handler).port)

    assert sent.endswith(b"\r\n\r\n" + b"2\r\n0;\r\n" * 3 + LAST_CHUNK)


@pytest.mark.parametrize("snapshot", [True, False])
async def test_a_snapshot_is_to_be_had_without_a_stream(
    snapshot: bool, mount: Mount, database: Database, sql: RawSql
):
    """``snapshot = True``: several reads see one state. Without it, each statement sees its own."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            before = await self.run(count_notes, self.session)
            sql("INSERT INTO notes (text) VALUES ('theirs')")
            self.write_json([before, await self.run(count_notes, self.session)])

    Handler.snapshot = snapshot
    answer = await mount(Handler).get("/")
    assert lent(database) == {}

    assert answer.json() == ([0, 0] if snapshot else [0, 1])


async def test_a_stream_that_fails_is_broken_off(mount: Mount, database: Database, expect_log: ExpectLog):
    """Half of an export must not look like a whole one: broken off, the last chunk is never sent."""

    class Handler(Counting):
        async def between(self, number: int) -> None:
            if number == 1:
                raise ValueError("in the middle")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"ValueError: in the middle"),
        expect_log("tornado.access", r"^\d+ GET / .* undone ", level=logging.INFO) as lines,
    ):
        sent = await ask(client.port)
        await until(lambda: lines)
        assert await all_back(database) == {}

    assert sent.endswith(b"\r\n\r\n" + b"2\r\n0;\r\n" * 2)


async def test_a_stream_that_ends_without_finish_is_broken_off(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """``_auto_finish = False`` and a return in the middle: nothing marks it as whole."""

    class Handler(Counting):
        times = 2

        async def get(self) -> None:
            self._auto_finish = False
            await super().get()

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"ended without a response"),
        expect_log("tornado.access", r"^\d+ GET / .* undone ", level=logging.INFO) as lines,
    ):
        sent = await ask(client.port)
        await until(lambda: lines)
        assert await all_back(database) == {}

    assert sent.endswith(b"\r\n\r\n" + b"2\r\n0;\r\n" * 2)


async def test_a_stream_that_fails_before_its_first_piece_is_an_error_answer(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """Nothing has left yet, so the client is told properly."""

    class Handler(Counting):
        async def get(self) -> None:
            await self.run(count_notes, self.session)
            raise ValueError("at once")

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"ValueError: at once"), expect_log("tornado.access", r"^500 GET"):
        answer = await client.get("/")
        assert await all_back(database) == {}

    assert answer.code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 500


async def test_a_stream_cannot_write(mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog):
    """It is read-only, whatever its method: the database refuses, and the log names the way out."""

    class Handler(ApiHandler):
        streams = True

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"POST Handler: a write"),
        expect_log("tornado.access", r"^500 POST") as lines,
    ):
        answer = await client.post("/")
        await until(lambda: lines)  # a stream is settled after it has been sent

    assert answer.code == 500
    assert notes() == []


async def test_a_stream_whose_client_leaves_is_stopped(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """In the middle of a statement: cancelled, and the connection back within two seconds."""

    class Handler(Counting):
        async def between(self, number: int) -> None:
            await self.run(take_long, self.session)

    client = mount(Handler)
    with expect_log("tornado.access", r"^\d+ GET / .* undone ", level=logging.INFO) as lines:
        async with Wire(client.port) as wire:
            wire.send("GET / HTTP/1.1")
            await wire.reader.readuntil(b"0;\r\n")
            await asyncio.sleep(0.05)
            wire.leave()
        assert await all_back(database) == {}
        await until(lambda: lines)


async def test_the_applications_limit_is_not_a_streams(mount: Mount):
    """An export takes as long as its client takes to read it; `timeout_s` on the handler still holds."""

    class Handler(Counting):
        async def between(self, number: int) -> None:
            await asyncio.sleep(0.1)

    sent = await ask(mount(Handler, request_timeout_s=0.15).port)

    assert sent.endswith(LAST_CHUNK)


async def test_a_stream_with_a_limit_of_its_own_is_broken_off_there(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """`timeout_s` on a stream: no last chunk, no second status line, everything back."""

    class Handler(Counting):
        timeout_s = 0.5

        async def between(self, number: int) -> None:
            if number == 1:
                await self.run(take_long, self.session)

    client = mount(Handler)
    began = own_time()
    with expect_log("tornado.access", r"^\d+ GET / .* undone ", level=logging.INFO) as lines:
        sent = await ask(client.port)
        await until(lambda: lines)
        assert await all_back(database) == {}

    assert own_time() - began < 2.0
    assert sent.endswith(b"\r\n\r\n" + b"2\r\n0;\r\n" * 2)
