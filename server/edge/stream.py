"""A client's connection: its time limits, and error responses in place of Tornado's bare ones."""

from __future__ import annotations

import enum
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from tornado.concurrent import Future
from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream, UnsatisfiableReadError

from conf import HttpSettings
from handlers.lifecycle.errors import Problem
from server.edge.early_errors import Caller, Head
from server.edge.linger import Lingering

Refuse = Callable[[Problem, Head | None], bytes]

# A head without a single header: Tornado writes nothing of the kind but "100 (Continue)" and its bare 400.
_BARE = re.compile(rb"HTTP/1\.1 ([0-9])[^\r\n]*\r\n\r\n")
_BARE_MAX_BYTES = 64

_TOO_LARGE = ("Content-Length too long", "chunked body too large")
"""Tornado's errors for a body beyond a handler's own limit, which it answers with its bare 400."""


class Phase(enum.Enum):
    """The phase of a connection."""

    IDLE = "no byte of the next request has arrived"
    HEAD = "a request's head is arriving"
    BODY = "its body is arriving, and has no reader yet"
    ANSWER = "it is being answered"


class ClientStream(IOStream):
    """One client's connection. Lives from its acceptance until either side closes it.

    Differs from Tornado's in three ways: a client that is too slow gets a 408 and is disconnected (`check`,
    which the server calls at intervals); where Tornado sends a bare ``400 Bad Request``, or closes, a problem
    is sent; and a client that is still sending can read the response, see `Lingering`.

    Overrides `IOStream`'s methods for subclasses: ``read_from_fd``, ``write_to_fd``, ``close_fd``, and the
    public ``write`` and ``close``.
    """

    def __init__(
        self,
        accepted: IOStream,
        *,
        peer: Caller,
        settings: HttpSettings,
        refuse: Refuse,
        lingering: Lingering,
    ) -> None:
        super().__init__(
            accepted.socket,
            max_buffer_size=accepted.max_buffer_size,
            read_chunk_size=accepted.read_chunk_size,
        )
        self.peer = peer
        self.head: Head | None = None
        self.problem: Problem | None = None
        """What is wrong with the request, for the response that replaces Tornado's bare one."""
        self._settings = settings
        self._answer_of = refuse
        self._lingering = lingering
        self._answered = False  # part of a response to this request has been written
        self._read_whole = False  # all of the request has been read
        self._no_delay = False
        self.is_new = True
        """No request has arrived yet."""
        self._enter(Phase.IDLE)

    # -- called by the server, for each request

    def await_request(self) -> None:
        """The connection awaits a request."""
        self.head = self.problem = None
        self._answered = self._read_whole = False
        self._enter(Phase.IDLE)

    def head_received(self, head: Head) -> None:
        """A request's head has arrived, and was parsed."""
        self.head = head
        self.is_new = False
        self._enter(Phase.BODY)

    def body_has_reader(self) -> None:
        """The handler runs already, reads the body in chunks, and sets its time limit."""
        self._enter(Phase.ANSWER)

    def request_received(self) -> None:
        """The request is complete."""
        self._read_whole = True
        self._enter(Phase.ANSWER)

    # -- time limits

    def check(self) -> None:
        """Disconnect a client that is too slow."""
        waited_s = time.monotonic() - self._since
        settings = self._settings
        if self._phase is Phase.HEAD and waited_s > settings.header_timeout_s:
            self.refuse(Problem(408, f"the headers did not come within {settings.header_timeout_s:g} s"))
        elif self._phase is Phase.BODY and waited_s > settings.body_timeout_s:
            self.refuse(Problem(408, f"the body did not come within {settings.body_timeout_s:g} s"))
        elif waited_s > settings.idle_timeout_s and self._is_stalled:
            self.close()

    @property
    def is_idle(self) -> bool:
        """Whether no byte of a request has arrived, not even in the kernel's buffer."""
        return self._phase is Phase.IDLE and not _has_more(self.socket)

    @property
    def _is_stalled(self) -> bool:
        if self._phase is Phase.ANSWER:  # the response is not read, or the handler waits for more of the body
            return self.writing() or (self.reading() and not self._read_whole)
        return self._phase is Phase.IDLE

    def refuse(self, problem: Problem) -> None:
        """Send an error in place of a handler, and close."""
        self._answer(problem)
        self.close()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = time.monotonic()

    # -- answers

    def write(self, data: bytes | memoryview) -> Future[None]:
        """As `IOStream`'s; Tornado's bare response becomes a problem."""
        if len(data) <= _BARE_MAX_BYTES and (bare := _BARE.fullmatch(data)):
            if bare[1] == b"1":
                return super().write(data)
            return self._answer(self.problem or self._malformed())
        self._answered = True
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:
        """As `IOStream`'s; a problem is sent first where Tornado would close without a response."""
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            if self.head is None:
                limit = self._settings.header_max_bytes
                self._answer(Problem(431, f"the request line and the headers are longer than {limit} bytes"))
            else:
                self._answer(self._malformed())
        super().close(exc_info)

    def _malformed(self) -> Problem:
        if self.head is None:
            return Problem(400, "the request line or a header is malformed")
        if isinstance(error := sys.exception(), HTTPInputError) and str(error) in _TOO_LARGE:
            return Problem(413, "the body is larger than this path takes")
        return Problem(400, "the body's Content-Length, Transfer-Encoding or a chunk of it is malformed")

    def _answer(self, problem: Problem) -> Future[None]:
        if self._answered:  # in the middle of a response, another one would be taken for a part of it
            return super().write(b"")
        self._answered = True
        return super().write(self._answer_of(problem, self.head))

    # -- the socket

    def set_nodelay(self, value: bool) -> None:
        """As `IOStream`'s, but once on, it stays on.

        Tornado turns it on at the end of each response and off again: two system calls, round a response
        that is written by one.
        """
        if value and not self._no_delay and self.socket is not None:
            self._no_delay = True
            super().set_nodelay(True)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """As `IOStream`'s; records a request's first byte, and that the client sends."""
        size = super().read_from_fd(buf)
        if size and self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        elif size and self._phase is Phase.ANSWER:
            self._since = time.monotonic()
        return size

    def write_to_fd(self, data: memoryview) -> int:
        """As `IOStream`'s; records that the client reads."""
        if self._phase is Phase.ANSWER:
            self._since = time.monotonic()
        return super().write_to_fd(data)

    def close_fd(self) -> None:
        """As `IOStream`'s; by `Lingering` where the client may still be sending."""
        if self._answered and (not self._read_whole or _has_more(self.socket)):
            connection, self.socket = self.socket, None  # type: ignore[assignment]
            self._lingering.take(connection)
        else:
            super().close_fd()


def _has_more(connection: socket.socket | None) -> bool:
    """Whether the kernel holds bytes that were not read: if closed now, the connection would be reset."""
    if connection is None:
        return False
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
