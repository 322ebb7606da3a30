"""The held response, byte by byte, on raw sockets."""

from __future__ import annotations

import asyncio
import gzip
import re

import pytest

from db import Database
from handlers import ApiHandler
from handlers.lifecycle.held_response import ResponseDropped
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import NO_NOTE, add_note, list_texts
from tests.handlers.wire import Wire

pytestmark = pytest.mark.gen_test


class Plain(ApiHandler):
    """Answers with what it was told, after a write where it is not a read."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.clear_header("Date")

    async def get(self) -> None:
        await self.run(list_texts, self.session)
        self.write("12345")

    async def post(self) -> None:
        await self.run(add_note, self.session, text=self.get_argument("text", "written"))
        self.set_status(201)
        self.write("12345")

    async def delete(self) -> None:
        await self.run(add_note, self.session, text="written")
        self.set_status(204)

    def compute_etag(self) -> str | None:
        return '"five"' if self.request.method in ("GET", "HEAD") else None


TIMING = rb"Server-Timing: db;dur=\d+\.\d, commit;dur=\d+\.\d\r\n"


async def test_an_answer_is_what_tornado_would_have_sent(mount: Mount, notes: Notes):
    """Status line, headers and body are Tornado's own, plus the request's id and the timing."""
    async with Wire(mount(Plain).port) as wire:
        wire.send("POST / HTTP/1.1", "Content-Length: 0", "X-Request-Id: r1", "Connection: close")
        sent = await wire.rest()

    assert re.fullmatch(
        rb"HTTP/1\.1 201 Created\r\n"
        rb"Content-Type: text/html; charset=UTF-8\r\n"
        rb"Content-Length: 5\r\n"
        rb"X-Request-Id: r1\r\n" + TIMING + rb"Connection: close\r\n"
        rb"\r\n"
        rb"12345",
        sent,
    ), sent
    assert notes() == ["written"]


NO_WRITES = {
    "sqlite": ("BEGIN IMMEDIATE", "ROLLBACK"),
    "postgresql": ("BEGIN; LOCK TABLE notes IN SHARE MODE", "ROLLBACK"),
    "mariadb": ("LOCK TABLES notes READ", "UNLOCK TABLES"),
}
"""Statements that block writers of notes, and that let them go on."""


async def test_not_a_byte_leaves_before_the_commit(mount: Mount, notes: Notes, sql: RawSql, backend: str):
    """With COMMIT, or the statement before it, held up by a lock, the socket stays silent."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            from tests.handlers.notes import Note

            self.session.add(Note(text="written"))  # is flushed, so the lock met, after finish()
            self.finish("done")

    client = mount(Handler)
    async with Wire(client.port) as wire:
        with sql.connect() as other:
            lock, unlock = NO_WRITES[backend]
            cursor = other.cursor()
            cursor.execute(lock)
            wire.send("POST / HTTP/1.1", "Content-Length: 0")
            assert await wire.is_silent(0.2)
            cursor.execute(unlock)
        answer = await wire.answer()

    assert (answer.code, answer.body) == (200, b"done")
    assert notes() == ["written"]


async def test_a_connection_is_kept_alive(mount: Mount, database: Database, notes: Notes):
    """Requests one after the other on one connection, a refused and a redirected one among them."""

    class Handler(Plain):
        async def post(self) -> None:
            text = self.get_argument("text")
            await self.run(add_note, self.session, text=text, parent_id=NO_NOTE if text == "bad" else None)
            self.write(text)

    async with Wire(mount(Handler).port) as wire:
        answers = []
        for text in ("one", "bad", "two"):
            wire.send(f"POST /?text={text} HTTP/1.1", "Content-Length: 0")
            answers.append(await wire.answer())
            assert lent(database) == {}

    assert [answer.code for answer in answers] == [200, 409, 200]
    assert [answers[0].body, answers[2].body] == [b"one", b"two"]
    assert notes() == ["one", "two"]


async def test_requests_sent_ahead_are_answered_in_order(mount: Mount, notes: Notes):
    """Two requests in one packet: the second one waits for the first one's COMMIT, and both are answered."""
    async with Wire(mount(Plain).port) as wire:
        wire.send("POST /?text=one HTTP/1.1", "Content-Length: 0")
        wire.send("POST /?text=two HTTP/1.1", "Content-Length: 0")
        answers = [await wire.answer(), await wire.answer()]

    assert [answer.code for answer in answers] == [201, 201]
    assert notes() == ["one", "two"]


async def test_head_has_the_headers_of_get_and_no_body(mount: Mount):
    """HEAD says how long the body would be, sends none, and the connection goes on."""
    async with Wire(mount(Plain).port) as wire:
        wire.send("HEAD / HTTP/1.1")
        head = await wire.answer(has_body=False)
        wire.send("GET / HTTP/1.1")
        get = await wire.answer()

    assert head.first_line == get.first_line == "HTTP/1.1 200 OK"
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == "5"
    assert head.headers["Etag"] == get.headers["Etag"] == '"five"'
    assert get.body == b"12345"


async def test_304_and_204_have_no_body(mount: Mount, notes: Notes):
    """Neither a body nor a length, and the connection goes on."""
    async with Wire(mount(Plain).port) as wire:
        wire.send("GET / HTTP/1.1", 'If-None-Match: "five"')
        unchanged = await wire.answer(has_body=False)
        wire.send("DELETE / HTTP/1.1")
        empty = await wire.answer(has_body=False)
        wire.send("GET / HTTP/1.1")
        get = await wire.answer()

    assert unchanged.first_line == "HTTP/1.1 304 Not Modified"
    assert empty.first_line == "HTTP/1.1 204 No Content"
    for answer in (unchanged, empty):
        assert "Content-Length" not in answer.headers
        assert "Transfer-Encoding" not in answer.headers
    assert get.body == b"12345"
    assert notes() == ["written"]


async def test_gzip(mount: Mount, notes: Notes):
    """``compress_response``: the body is what was written, its length that of the compressed bytes."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.write("12345" * 1000)

    async with Wire(mount(Handler, compress_response=True).port) as wire:
        wire.send("POST / HTTP/1.1", "Content-Length: 0", "Accept-Encoding: gzip")
        answer = await wire.answer()

    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == b"12345" * 1000
    assert notes() == ["written"]


async def test_http_1_0(mount: Mount, notes: Notes):
    """No chunks; closed at the end, or kept where the client asked for that."""
    client = mount(Plain)
    async with Wire(client.port) as wire:
        wire.send("POST /?text=one HTTP/1.0", "Content-Length: 0")
        closed = await wire.rest()
    async with Wire(client.port) as wire:
        wire.send("POST /?text=two HTTP/1.0", "Content-Length: 0", "Connection: keep-alive")
        kept = await wire.answer()
        wire.send("POST /?text=three HTTP/1.0", "Content-Length: 0")
        last = await wire.rest()

    assert closed.endswith(b"\r\n\r\n12345")
    assert b"Transfer-Encoding" not in closed
    assert (kept.headers["Connection"], kept.body) == ("Keep-Alive", b"12345")
    assert last.endswith(b"\r\n\r\n12345")
    assert notes() == ["one", "two", "three"]


async def test_connection_close_on_an_error_answer(mount: Mount, notes: Notes):
    """The answer of a failed COMMIT closes a connection that was to be closed."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)

    async with Wire(mount(Handler).port) as wire:
        wire.send("POST / HTTP/1.1", "Content-Length: 0", "Connection: close")
        sent = await wire.rest()

    head, body = sent.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 409 Conflict\r\n")
    assert b"\r\nConnection: close" in head
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Length", "4"),
        ("Content-Length", "6"),
        ("Content-Length", "-5"),
        ("Content-Length", "five"),
        ("X-€", "5"),
        ("X-A: 1\r\nX-Injected", "1"),
        ("X-A: 1\nX-Injected", "1"),
        ("Transfer-Encoding", "chunked"),
    ],
)
async def test_what_could_not_be_written_is_found_before_the_commit(
    name: str, value: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A Content-Length that is wrong, a header's name that Tornado looks at only when it writes.

    It is a 500, and nothing is kept.
    """

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.set_header(name, value)
            self.write("12345")

    async with Wire(mount(Handler).port) as wire:
        with (
            expect_log("onfinish.handlers", r"_check(.|\n)*(Error|the header)") as records,
            expect_log("tornado.access", r"^500 POST / .* undone "),
        ):
            wire.send("POST / HTTP/1.1", "Content-Length: 0")
            answer = await wire.answer()
            assert lent(database) == {}

    assert len(records) == 1
    assert answer.code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "X-Injected" not in answer.headers
    assert notes() == []


@pytest.mark.parametrize("status", [0, 100, 102, 1000])
async def test_a_status_that_ends_no_request_is_found_before_the_commit(
    status: int, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The client would go on waiting for the answer, or could not read it."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.set_status(status)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", f"{status} is not"),
        expect_log("tornado.access", r"^500 .* undone "),
    ):
        answer = await client.post("/")

    assert answer.code == 500
    assert notes() == []


async def test_a_line_break_in_a_headers_value_is_found_before_the_commit(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The same for a value that got past ``set_header``, which looks at values itself."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self._headers["X-A"] = "1\r\nX-Injected: 1"

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"X-A"), expect_log("tornado.access", r"^500 POST / .* undone "):
        answer = await client.post("/")

    assert answer.code == 500
    assert "X-Injected" not in answer.headers
    assert notes() == []


async def test_an_awaited_finish_returns_when_the_answer_has_left(mount: Mount, notes: Notes):
    """``await self.finish()`` returns after the COMMIT, and with the work kept."""
    seen: list[list[str]] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.finish("done")
            seen.append(notes())

    answer = await mount(Handler).post("/")
    await asyncio.sleep(0.05)

    assert answer.body == b"done"
    assert seen == [["written"]]


async def test_an_awaited_finish_raises_when_the_answer_was_dropped(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """``await self.finish()`` on a response whose COMMIT failed ends with an error, and does not hang."""
    ends: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            try:
                async with asyncio.timeout(2):
                    await self.finish("done")
            except BaseException as error:
                ends.append(type(error).__name__)
                raise

    client = mount(Handler)
    with expect_log("", r"ResponseDropped", required=False):
        answer = await client.post("/")
        await asyncio.sleep(0.05)

    assert answer.code == 409
    assert ends == ["ResponseDropped"]
    assert notes() == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_flush_before_the_end_is_refused(
    method: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Part of an answer would leave before its COMMIT: a 500 that names the ways out, nothing kept."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            self.write("first half")
            await self.flush()

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.get()

    client = mount(Handler)
    with (
        expect_log(
            "onfinish.handlers", r"Handler: flush\(\) before the end(.|\n)*finish\(\)(.|\n)*streams = True"
        ),
        expect_log("tornado.access", r"^500 "),
    ):
        answer = await client.request(method, "/")

    assert answer.code == 500
    assert b"first half" not in answer.body
    assert lent(database) == {}
    assert notes() == []


async def test_request_id_and_timing_are_on_every_answer(mount: Mount):
    """On a success and on an error: the caller's id where it is fit to be one, and what the database took."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            text = self.get_argument("text")
            await self.run(add_note, self.session, text=text, parent_id=NO_NOTE if text == "bad" else None)

    client = mount(Handler)
    good = await client.post("/?text=good", headers={"X-Request-Id": "a.B-9_"})
    bad = await client.post("/?text=bad", headers={"X-Request-Id": "no spaces, no commas"})

    assert good.headers["X-Request-Id"] == "a.B-9_"
    assert re.fullmatch(r"[0-9a-f]{32}", bad.headers["X-Request-Id"])
    assert bad.json()["request_id"] == bad.headers["X-Request-Id"]
    for answer in (good, bad):
        timing = re.fullmatch(r"db;dur=(\d+\.\d), commit;dur=(\d+\.\d)", answer.headers["Server-Timing"])
        assert timing is not None
        assert 0 < float(timing[1]) < 5000
        assert float(timing[2]) <= float(timing[1])


async def test_an_answer_that_cannot_be_sent_closes_the_connection(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The work is kept, so the answer is not false; the client does not wait, and the `await` raises."""
    told: list[Exception] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            sent = self.finish("done")
            self._headers["X-Name"] = "\u7532"  # past Tornado's look at it, and past that of what is held
            try:
                await sent
            except ResponseDropped as error:
                told.append(error)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"POST Handler \[r1\]: the response could not be sent"),
        expect_log("tornado.access", "500 POST / .* kept"),
    ):
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Content-Length: 0", "X-Request-Id: r1")
            assert await wire.rest() == b""

    assert notes() == ["written"]
    assert len(told) == 1
