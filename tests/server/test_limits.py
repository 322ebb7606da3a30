"""How large and how slow a request may be, and that its client learns of it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import time
import tracemalloc
from typing import Any

import pytest
from tornado.web import Application, RequestHandler, stream_request_body

import server.edge.linger
from db.errors import PoolTimeout
from handlers import ProblemHandler
from handlers.ops import LivezHandler
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.edge import Edge, StartEdge, problem_in

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

MIB = 1024 * 1024
BOOK = {"title": "a book"}


class Echo(ProblemHandler):
    """Says how long the body was."""

    def post(self) -> None:
        self.write_json(len(self.request.body))

    def get(self) -> None:
        self.write_json("x" * int(self.get_argument("size", "1")))


@stream_request_body
class Upload(RequestHandler):
    """Takes a body as it comes, and more of it than the server lets others take."""

    size = 0

    def prepare(self) -> None:
        self.request.connection.set_max_body_size(3000)  # type: ignore[union-attr]

    def data_received(self, chunk: bytes) -> None:
        self.size += len(chunk)

    def post(self) -> None:
        self.write(str(self.size))


class UploadOfFullPool(Upload):
    """What a handler that is refused early inherits, where its pool is full."""

    refused_early = True

    @classmethod
    def refusal(cls, application: Application, method: str) -> PoolTimeout:
        return PoolTimeout("all slots are taken")


@pytest.fixture
def small(start_edge: StartEdge) -> Edge:
    """A server without a database that takes a thousand bytes."""
    application = Application([("/", Echo), ("/upload", Upload), ("/livez", LivezHandler)])
    return start_edge(application, body_max_bytes=1000, header_max_bytes=2000)


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    """A request with its length."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post_chunked(*chunks: bytes, path: str = "/") -> bytes:
    """A request in chunks."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-Request-Id: mine\r\n\r\n"
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


# -- size


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_and_nothing_kept(
    app: Application, start_edge: StartEdge, sql: RawSql, chunked: bool
):
    """On both databases: 413 as a problem, with the caller's own id."""
    edge = start_edge(app, body_max_bytes=1000)
    body = json.dumps(BOOK | {"notes": {"key": "x" * 1000}}).encode()

    answer = await edge.ask(
        post_chunked(body[:600], body[600:], path="/books")
        if chunked
        else post(body, "X-Request-Id: mine", path="/books")
    )

    problem = problem_in(answer, 413)
    assert problem["detail"] == "a body here has at most 1000 bytes"
    assert problem["instance"] == "/books"
    assert problem["request_id"] == "mine"
    assert answer.headers["Connection"] == "close"
    assert sql("SELECT count(*) AS n FROM books") == [{"n": 0}]


@pytest.mark.parametrize("request_", [post(b"x" * 1000), post_chunked(b"x" * 999, b"x")])
async def test_a_body_of_just_the_limit_is_taken(small: Edge, request_: bytes):
    answer = await small.ask(request_)

    assert (answer.code, answer.body) == (200, b"1000")


@pytest.mark.parametrize("request_", [post(b"x" * 1001), post_chunked(b"x" * 999, b"xx")])
async def test_one_byte_more_is_not(small: Edge, request_: bytes):
    problem_in(await small.ask(request_), 413)


@pytest.mark.parametrize(
    "request_", [post(b"x" * 3001, path="/upload"), post_chunked(b"x" * 2999, b"xx", path="/upload")]
)
async def test_a_handler_that_takes_its_body_as_it_comes_has_a_limit_of_its_own(small: Edge, request_: bytes):
    """413 too, where the limit is one that only Tornado knows."""
    assert (await small.ask(post(b"x" * 3000, path="/upload"))).body == b"3000"

    problem = problem_in(await small.ask(request_), 413)

    assert problem["detail"] == "the body is larger than this path takes"


async def test_a_streamed_body_that_is_malformed_is_400(small: Edge):
    malformed = post_chunked(b"x" * 10, path="/upload").replace(b"\r\na\r\n", b"\r\nz\r\n")

    assert "a chunk of it is malformed" in problem_in(await small.ask(malformed), 400)["detail"]


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "0" * 20 + "1001", "1001, 1001"])
async def test_a_length_is_too_large_however_it_is_written(start_edge: StartEdge, length: str):
    edge = start_edge(Application([("/", Echo)]), body_max_bytes=1000)
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"

    problem_in(await edge.ask(head.encode()), 413)


async def test_expect_100_continue_with_a_large_body_is_refused(small: Edge):
    """``Expect: 100-continue``: 413 in the place of 100, and no body need be sent."""
    head = post(b"x" * 1001, "Expect: 100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    problem_in(await small.ask(head), 413)


async def test_expect_100_continue_with_a_small_body_is_continued(small: Edge):
    """And where the body is small enough, 100 comes before the answer, as Tornado writes it."""
    async with small.wire() as wire:
        wire.writer.write(post(b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 3"))
        first = await wire.reader.readuntil(b"\r\n\r\n")
        wire.writer.write(b"abc")
        answer = await wire.answer()

    assert first == b"HTTP/1.1 100 (Continue)\r\n\r\n"
    assert answer.body == b"3"


@pytest.mark.parametrize("start", [post(b"").replace(b"Length: 0", b"Length: %d" % (40 * MIB)), None])
async def test_a_client_that_sends_all_before_it_reads_can_read_the_answer(small: Edge, start: bytes | None):
    """As most clients do. A connection that is closed at once is reset, and the reset eats the answer."""
    start = start or post_chunked()[: -len(b"0\r\n\r\n")] + b"%x\r\n" % (40 * MIB)

    def client() -> bytes:
        with socket.create_connection(("127.0.0.1", small.port), timeout=10) as connection:
            connection.sendall(start)
            for _ in range(40):
                connection.sendall(b"x" * MIB)
            time.sleep(0.05)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer

    answer = await asyncio.to_thread(client)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(("name", "limit"), [("LINGER_S", 0.2), ("LINGER_MAX_BYTES", 10 * MIB)])
async def test_a_client_that_never_stops_sending_is_cut_off(
    small: Edge, monkeypatch: pytest.MonkeyPatch, name: str, limit: float
):
    """After so many seconds, or so many bytes."""
    monkeypatch.setattr(server.edge.linger, name, limit)
    piece = b"x" * MIB

    async with small.wire() as wire:
        wire.writer.write(post(b"").replace(b"Length: 0", b"Length: 999999999999"))
        began_at = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < began_at + 5:
                wire.writer.write(piece)
                await wire.writer.drain()
                await asyncio.sleep(0.001)

    assert len(small.server._lingering) == 0


async def test_the_server_does_not_wait_for_lingering_clients(small: Edge):
    """Closed with all connections; a client's slowness does not hold up the end of the process."""
    async with small.wire() as wire:
        wire.writer.write(post(b"x" * 10).replace(b"Length: 10", b"Length: 9999"))
        await wire.answer()
        assert len(small.server._lingering) == 1

        await asyncio.wait_for(small.server.close_all_connections(), 0.5)

    assert len(small.server._lingering) == 0


async def test_a_body_that_is_too_large_is_not_kept_in_memory(start_edge: StartEdge):
    """64 MiB in one chunk that is announced as larger still; the limit is 1 MiB, in the memory as well."""
    edge = start_edge(Application([("/", Echo)]), body_max_bytes=MIB)
    piece = memoryview(b"x" * 65536)
    async with edge.wire() as wire:
        own = wire.writer.get_extra_info("socket")
        wire.writer.write(post_chunked()[: -len(b"0\r\n\r\n")] + b"fffffff\r\n")
        await wire.writer.drain()
        tracemalloc.start()
        try:
            sent = 0
            while sent < 64 * MIB:
                with contextlib.suppress(BlockingIOError):
                    sent += _send(own, piece)
                await asyncio.sleep(0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        answer = await wire.answer()

    assert answer.code == 413
    assert peak < 4 * MIB


def _send(connection: Any, piece: memoryview) -> int:
    """Send without asyncio's transport, which would keep what the socket does not take."""
    copy = socket.socket(fileno=socket.dup(connection.fileno()))
    with copy:
        return copy.send(piece)


async def test_a_gzip_bomb_stays_what_it_is(app: Application, start_edge: StartEdge):
    """415, before a byte is unpacked: here 60 KB stand for 64 MB."""
    edge = start_edge(app)
    bomb = gzip.compress(b" " * 64 * MIB, 1)
    tracemalloc.start()
    try:
        answer = await edge.ask(post(bomb, "Content-Encoding: gzip", path="/books"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert problem_in(answer, 415)["detail"] == "a body here has no content encoding"
    assert peak < 8 * MIB


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 400 + b"\r\n",
        b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"x" * 3_000_000,
    ],
)
async def test_a_head_over_the_limit_is_refused(small: Edge, head: bytes):
    """431, also when it never ends, and also when far more is sent."""
    answer = await small.ask(head)

    assert "2000 bytes" in problem_in(answer, 431)["detail"]
    assert await small.is_well()


# -- time


@pytest.mark.parametrize(
    ("sent", "settings"),
    [
        (b"GET / HT", {"header_timeout_s": 0.2}),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", {"header_timeout_s": 0.2}),
        (post(b"x" * 10)[:-1], {"body_timeout_s": 0.2}),
        (post_chunked(b"x" * 10)[:-1], {"body_timeout_s": 0.2}),
    ],
)
async def test_a_request_that_does_not_come_is_told_so(
    start_edge: StartEdge, sent: bytes, settings: dict[str, float]
):
    """408, once its time is over; the client may trickle as it likes."""
    edge = start_edge(Application([("/", Echo)]), **settings)
    began_at, began_here_at = time.monotonic(), own_time()

    async with edge.wire() as wire:
        wire.writer.write(sent[:5])
        answering = asyncio.ensure_future(wire.answer())
        for byte in (sent[i : i + 1] for i in range(5, len(sent))):
            if answering.done():
                break
            wire.writer.write(byte)
            await asyncio.sleep(0.001)
        answer = await answering
        assert await wire.rest() == b""

    assert "within 0.2 s" in problem_in(answer, 408)["detail"]
    assert time.monotonic() - began_at >= 0.2
    assert own_time() - began_here_at < 1.0


@pytest.mark.parametrize("requests", [0, 1])
async def test_an_idle_connection_is_closed_without_a_word(start_edge: StartEdge, requests: int):
    """A new one on which nothing is asked, and one that was used. An answer to nothing would confuse."""
    edge = start_edge(Application([("/", Echo)]), idle_timeout_s=0.2)
    async with edge.wire() as wire:
        for _ in range(requests):
            wire.send("GET / HTTP/1.1")
            await wire.answer()
        began_at, began_here_at = time.monotonic(), own_time()

        assert await wire.rest() == b""

    assert time.monotonic() - began_at > 0.1
    assert own_time() - began_here_at < 1.0


async def test_a_connection_that_is_used_stays(start_edge: StartEdge):
    """Whatever the limits, they begin anew with each request."""
    edge = start_edge(
        Application([("/", Echo)]), idle_timeout_s=0.3, header_timeout_s=0.3, body_timeout_s=0.3
    )
    async with edge.wire() as wire:
        for _ in range(6):
            wire.writer.write(post(b"abc")[:-2])
            await asyncio.sleep(0.1)
            wire.writer.write(b"bc")
            assert (await wire.answer()).body == b"3"


async def test_an_answer_that_is_not_read_is_given_up(start_edge: StartEdge):
    """The connection and the memory of the answer come back."""
    edge = start_edge(Application([("/", Echo)]), idle_timeout_s=0.2)
    async with edge.wire() as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.send(f"GET /?size={30 * MIB} HTTP/1.1")
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not edge.server._connections and not edge.server._streams:
                break

        assert not edge.server._connections


async def test_an_answer_that_is_read_slowly_is_not(start_edge: StartEdge):
    """All of it arrives, although it takes longer than an idle connection may last."""
    edge = start_edge(Application([("/", Echo)]), idle_timeout_s=0.2)
    size = 24 * MIB
    async with edge.wire() as wire:
        wire.send(f"GET /?size={size} HTTP/1.1")
        left, began_at = size, time.monotonic()
        while left > 0:
            piece = await wire.reader.read(2 * MIB)
            assert piece
            left -= len(piece)
            await asyncio.sleep(0.005)

    assert time.monotonic() - began_at > 0.3


async def test_a_handler_that_takes_its_body_as_it_comes_has_its_own_limits(start_edge: StartEdge):
    """What it says in `prepare` counts, and no 408 falls in between."""
    edge = start_edge(Application([("/", Upload)]), body_max_bytes=1000, body_timeout_s=0.1)
    async with edge.wire() as wire:
        wire.writer.write(post(b"x" * 3000)[:-10])
        await asyncio.sleep(0.3)
        wire.writer.write(b"x" * 10)
        within = await wire.answer()

    assert (within.code, within.body) == (200, b"3000")
    problem_in(await edge.ask(post(b"x" * 3001)), 413)


async def test_an_upload_that_falls_silent_is_closed(start_edge: StartEdge):
    edge = start_edge(Application([("/", Upload)]), idle_timeout_s=0.2)
    async with edge.wire() as wire:
        wire.writer.write(post(b"x" * 300)[:-10])

        assert await wire.rest() == b""


async def test_a_handler_that_reads_its_body_as_it_comes_has_begun_and_is_not_refused_early(
    start_edge: StartEdge,
):
    edge = start_edge(Application([("/upload", UploadOfFullPool)]), body_max_bytes=1000)

    answer = await edge.ask(post(b"x" * 10, path="/upload"))

    assert (answer.code, answer.body) == (200, b"10")


async def test_only_a_handler_that_is_refused_early_is_asked(start_edge: StartEdge):
    """A method of that name may be an application's own."""

    class Own(RequestHandler):
        def refusal(self) -> str:
            return "its own"

        def get(self) -> None:
            self.write(self.refusal())

    edge = start_edge(Application([("/", Own)]))

    answer = await edge.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (answer.code, answer.body) == (200, b"its own")
