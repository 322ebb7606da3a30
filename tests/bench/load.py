"""The load: kept-alive connections that each have one request under way, driven by one thread.

A client of our own, and not wrk: nothing has to be installed, every answer of a run is looked at (its
status, and that all of it came), and each request may be another one. It takes about an eighth of the CPU of
the cheapest server that is measured, in a process that is none of the server's: nothing of it is counted as
the server's.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import time
from array import array
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

TIMEOUT_S = 60.0
_READ_BYTES = 1 << 18
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_END_OF_LINE = b"}\n"
_CHUNKED = float("inf")
_KEPT_BYTES = 1 << 20


class LoadError(Exception):
    """An answer was not what it should have been. What was measured until then says nothing."""


class Answer(NamedTuple):
    """One answer, as it came."""

    status: int
    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Taken(NamedTuple):
    """What a run took."""

    seconds: float
    latencies_s: array[float]
    lines: int = 0
    """How many lines of JSON objects came in answers of unknown length: exports."""

    @property
    def per_s(self) -> float:
        """Answers in a second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the requests stayed below, in milliseconds."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def request(method: str, path: str, body: Any = None) -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    content = json.dumps(body, separators=(",", ":")).encode()
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Load:
    """Connections to one server. Lives as long as its ``with`` block.

    Args:
        port: of a server on loopback.
        connections: each has one request under way at a time.
        first: a request that each connection sends as soon as it is open, so that the next one comes to a
            server at work. Of several processes with nothing to do, one may take most that come at once.
    """

    def __init__(self, port: int, connections: int, *, first: bytes | None = None) -> None:
        self._port = port
        self._number = connections
        self._first = first
        self.sockets: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        for _ in range(self._number):
            one = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets[one.fileno()] = one
            if self._first is not None:
                one.sendall(self._first)
        if self._first is not None:
            self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in self.sockets.values():
            one.close()

    def ask(self, content: bytes) -> Answer:
        """Send one request over the first of the connections, and read all of its answer.

        Raises:
            LoadError: it came in part, or not in time.
        """
        one = next(iter(self.sockets.values()))
        one.sendall(content)
        return _receive(one)

    def run(self, requests: Iterator[bytes], *, status: int) -> Taken:
        """Send requests over all connections until there are none left, each as soon as one is free.

        Args:
            status: of every answer.

        Raises:
            LoadError: an answer has another status, or does not come.
        """
        latencies_s = array("d")
        began_at: dict[int, float] = {}
        incoming: dict[int, Incoming] = {}
        lines = 0
        expected = b"HTTP/1.1 %d" % status
        clock, sockets = time.perf_counter, self.sockets
        poll = select.epoll()
        # A collection in the middle of a run would be told as the server's latency.
        gc.collect()
        gc.disable()
        try:
            started = clock()
            for number, one in sockets.items():
                content = next(requests, None)
                if content is None:
                    break
                poll.register(number, select.EPOLLIN)
                incoming[number] = Incoming(keep=False)
                began_at[number] = clock()
                one.sendall(content)
            while began_at:
                ready = poll.poll(TIMEOUT_S)
                if not ready:
                    raise LoadError(f"{len(began_at)} requests were not answered in {TIMEOUT_S:g} s")
                for number, _ in ready:
                    one, answer = sockets[number], incoming[number]
                    if not answer.add(one.recv(_READ_BYTES)):
                        continue
                    latencies_s.append(clock() - began_at.pop(number))
                    if not answer.content.startswith(expected):
                        raise LoadError(f"not {status} but {answer.content[9:500].decode(errors='replace')}")
                    lines += answer.lines
                    answer.clear()
                    content = next(requests, None)
                    if content is not None:
                        began_at[number] = clock()
                        one.sendall(content)
            return Taken(clock() - started, latencies_s, lines)
        finally:
            gc.enable()
            poll.close()

    def send(self, requests: Iterator[bytes]) -> None:
        """Send one request over each connection, and wait for no answer."""
        for one, content in zip(self.sockets.values(), requests, strict=False):
            one.sendall(content)

    def wait(self) -> list[Answer]:
        """The answers to what was sent."""
        return [_receive(one) for one in self.sockets.values()]


class Incoming:
    """An answer on its way in. Lives as long as a connection, and is cleared for the next answer.

    Args:
        keep: all of it; else no more than is needed, of answers that are larger than they should be here.
    """

    __slots__ = ("content", "lines", "_keep", "_size")

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self.clear()

    def clear(self) -> None:
        """Wait for the next answer."""
        self.content = bytearray()
        self.lines = 0
        self._size: float | None = None

    def add(self, part: bytes) -> bool:
        """Take what has come; returns whether the answer is whole.

        Raises:
            LoadError: there was nothing more to come.
        """
        if not part:
            raise LoadError(f"a connection was closed within an answer: {bytes(self.content[:200])!r}")
        content = self.content
        before = len(content)
        content += part
        if self._size is None:
            self._size = _size(content)
            if self._size is None:
                return False
        if self._size != _CHUNKED:
            return len(content) >= self._size
        self.lines += content.count(_END_OF_LINE, max(0, before - 1))
        if not self._keep and len(content) > _KEPT_BYTES:
            del content[_KEPT_BYTES // 2 : -len(_LAST_CHUNK)]
        return content.endswith(_LAST_CHUNK)


def _receive(one: socket.socket) -> Answer:
    incoming = Incoming()
    try:
        while not incoming.add(one.recv(_READ_BYTES)):
            pass
    except TimeoutError:
        raise LoadError(f"no answer in {TIMEOUT_S:g} s") from None
    head, _, body = bytes(incoming.content).partition(_END_OF_HEAD)
    return Answer(int(head[9:12]), head, _unchunked(body) if _is_chunked(head) else body)


def _size(came: bytearray) -> float | None:
    """How long the answer is whose beginning has come; None as long as that is not known."""
    end = came.find(_END_OF_HEAD)
    if end < 0:
        return None
    head = bytes(came[:end]).lower()
    at = head.find(_LENGTH)
    if at >= 0:
        line_end = head.find(b"\r", at)
        return end + 4 + int(head[at + len(_LENGTH) : line_end if line_end > 0 else end])
    return _CHUNKED if _is_chunked(head) else end + 4  # 204, 304


def _is_chunked(head: bytes) -> bool:
    return b"transfer-encoding: chunked" in head.lower()


def _unchunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + 4 + size
