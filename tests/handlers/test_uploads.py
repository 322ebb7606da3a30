"""Request bodies that are streamed: `tornado.web.stream_request_body`."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tornado.web import stream_request_body

from db import Database
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import NO_NOTE, add_note
from tests.handlers.wire import Wire

pytestmark = pytest.mark.gen_test


@stream_request_body
class Upload(ApiHandler):
    """Writes a note for the begin of an upload, one for each piece, and one for its end."""

    def initialize(self) -> None:
        self.pieces: list[bytes] = []

    async def prepare(self) -> None:
        super().prepare()
        await self.run(add_note, self.session, text="begin")

    async def data_received(self, chunk: bytes) -> None:
        self.pieces.append(chunk)
        await self.run(add_note, self.session, text=f"piece {len(self.pieces)}")

    async def post(self) -> None:
        await self.run(add_note, self.session, text="end")
        self.write(b"".join(self.pieces))


async def test_an_upload_is_one_transaction(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """What `prepare`, ``data_received`` and the method write is kept together, after the last piece."""
    client = mount(Upload)
    with expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO):
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Content-Length: 6", body=b"abc")
            assert await wire.is_silent(0.1)
            assert notes() == []
            wire.writer.write(b"def")
            answer = await wire.answer()
            assert lent(database) == {}

    assert (answer.code, answer.body) == (200, b"abcdef")
    assert notes() == ["begin", "piece 1", "piece 2", "end"]


async def test_an_upload_whose_client_leaves_midway_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Tornado calls neither the method nor ``on_finish``: the end of the request's task settles it."""
    client = mount(Upload)
    with expect_log("tornado.access", r"^499 POST / .* undone ", level=logging.INFO) as lines:
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Content-Length: 1000", body=b"abc")
            await asyncio.sleep(0.1)
            assert lent(database) != {}
            wire.leave()
        assert await all_back(database) == {}

    assert len(lines) == 1
    assert notes() == []


async def test_an_upload_whose_data_received_raises_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Tornado closes the connection; nothing is kept, everything is back."""

    class Handler(Upload):
        async def data_received(self, chunk: bytes) -> None:
            await super().data_received(chunk)
            raise ValueError("not a picture")

    client = mount(Handler)
    with (
        expect_log("", r"Uncaught exception|not a picture"),
        expect_log("tornado.access", r"POST / .* undone ", level=logging.INFO) as lines,
    ):
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Content-Length: 1000", body=b"abc")
            await wire.rest()
        assert await all_back(database) == {}

    assert len(lines) == 1
    assert notes() == []


async def test_an_upload_that_grows_too_large_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The limit is passed in the middle of a chunked body: nothing is kept, everything is back."""
    client = mount(Upload, server={"max_body_size": 10})
    with (
        expect_log("tornado.general", r"[Bb]ody too large", level=logging.INFO),
        expect_log("tornado.access", r"POST / .* undone ", level=logging.INFO) as lines,
    ):
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n")
            await asyncio.sleep(0.1)
            wire.writer.write(b"8\r\nabcdefgh\r\n")
            await wire.rest()
        assert await all_back(database) == {}

    assert len(lines) == 1
    assert notes() == []


@pytest.mark.parametrize("opened", [False, True])
async def test_an_upload_that_is_refused_in_prepare_is_answered_at_once(
    opened: bool, mount: Mount, database: Database, notes: Notes
):
    """A refusal does not wait for a body that is not wanted, and none of it reaches the handler."""
    received: list[bytes] = []

    @stream_request_body
    class Handler(ApiHandler):
        async def prepare(self) -> None:
            super().prepare()
            if opened:
                await self.run(add_note, self.session, text="who was it?")
            self.set_status(401)
            self.finish("who are you?")

        def data_received(self, chunk: bytes) -> None:
            received.append(chunk)

    async with Wire(mount(Handler).port) as wire:
        wire.send("POST / HTTP/1.1", "Content-Length: 1000000", body=b"x" * 70_000)
        answer = await wire.answer()
        assert await all_back(database) == {}

    assert (answer.code, answer.body) == (401, b"who are you?")
    assert received == []
    assert notes() == []


@pytest.mark.parametrize("opened", [False, True])
async def test_a_refused_upload_that_came_whole_leaves_the_connection_usable(
    opened: bool, mount: Mount, database: Database, notes: Notes
):
    """The body is not taken for the next request."""

    @stream_request_body
    class Handler(ApiHandler):
        async def prepare(self) -> None:
            super().prepare()
            if opened:
                await self.run(add_note, self.session, text="who was it?")
            self.redirect("/login")

        def data_received(self, chunk: bytes) -> None:
            raise AssertionError("of a body that was refused")

    async with Wire(mount(Handler).port) as wire:
        wire.send(
            "POST / HTTP/1.1",
            "Content-Length: 40",
            body=b"GET /smuggled HTTP/1.1\r\nHost: smuggler\r\n\r\n"[:40],
        )
        answer = await wire.answer()
        rest = await wire.is_silent(0.1)
        assert await all_back(database) == {}

    assert (answer.code, answer.headers["Location"]) == (302, "/login")
    assert rest
    assert notes() == (["who was it?"] if opened else [])


@pytest.mark.parametrize("where", ["prepare", "post"])
async def test_an_upload_whose_commit_fails_is_a_409(
    where: str, mount: Mount, database: Database, notes: Notes
):
    """Through a fresh handler, whose `prepare` answers without having read the body again."""

    @stream_request_body
    class Handler(ApiHandler):
        async def prepare(self) -> None:
            super().prepare()
            if where == "prepare":
                await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
                self.finish("done")

        def data_received(self, chunk: bytes) -> None:
            pass

        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)

    answer = await mount(Handler).post("/", b"body")
    assert await all_back(database) == {}

    assert answer.code == 409
    assert answer.json()["outcome"] == "not_applied"
    assert notes() == []


async def test_an_upload_that_stops_coming_ends_at_its_deadline(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Its client sends no more and does not leave either: 504, undone, back."""

    class Handler(Upload):
        timeout_s = 0.25

    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Content-Length: 1000", body=b"abc")
            answer = await wire.answer()
            assert await all_back(database) == {}

    assert answer.code == 504
    assert notes() == []
