"""A client's connection: its time limits, and the answers that Tornado alone would give in its own form."""

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
from handlers.json_api.errors import Problem
from server.edge.early_errors import Caller, Head
from server.edge.linger import Lingering

Refuse = Callable[[Problem, Head | None], bytes]

# A head without a single header: Tornado writes nothing of the kind but "100 (Continue)" and its bare 400.
_BARE = re.compile(rb"HTTP/1\.1 ([0-9])[^\r\n]*\r\n\r\n")
_BARE_MAX_BYTES = 64

_TOO_LARGE = ("Content-Length too long", "chunked body too large")
"""What Tornado raises where a body goes on beyond a handler's own limit, and answers with its bare 400."""


class Phase(enum.Enum):
    """What a connection is at."""

    IDLE = "no byte of the next request has come"
    HEAD = "a request's head is coming"
    BODY = "its body is coming, and nobody has looked at it"
    ANSWER = "it is being answered"


class ClientStream(IOStream):
    """One client's connection. Lives from its acceptance until either side closes it.

    Three things that Tornado's does not: a client that is too slow is told so and let go (`check`, which the
    server calls now and then); what Tornado refuses by a bare ``400 Bad Request`` or by closing is answered
    with a problem; and the client can read the answer to what it is still sending, see `Lingering`.

    Uses what `IOStream` has for subclasses: ``read_from_fd``, ``write_to_fd``, ``close_fd``, and the public
    ``write`` and ``close``.
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
        """What is wrong with the request, for the answer that takes the place of Tornado's bare one."""
        self._settings = settings
        self._answer_of = refuse
        self._lingering = lingering
        self._answered = False  # part of an answer to this request has been written
        self._read_whole = False  # the request has
        self._no_delay = False
        self.is_new = True
        """No request has come yet."""
        self._enter(Phase.IDLE)

    # -- told by the server, of each request

    def await_request(self) -> None:
        """The connection is ready for a request."""
        self.head = self.problem = None
        self._answered = self._read_whole = False
        self._enter(Phase.IDLE)

    def head_received(self, head: Head) -> None:
        """A request's head has come, and could be read."""
        self.head = head
        self.is_new = False
        self._enter(Phase.BODY)

    def body_has_reader(self) -> None:
        """The handler runs already, takes the body as it comes, and says how long that may take."""
        self._enter(Phase.ANSWER)

    def request_received(self) -> None:
        """All of the request has come."""
        self._read_whole = True
        self._enter(Phase.ANSWER)

    # -- time limits

    def check(self) -> None:
        """Let go of a client that is too slow."""
        waited_s = time.monotonic() - self._since
        settings = self._settings
        if self._phase is Phase.HEAD and waited_s > settings.header_timeout_s:
            self._give_up(f"the headers did not come within {settings.header_timeout_s:g} s")
        elif self._phase is Phase.BODY and waited_s > settings.body_timeout_s:
            self._give_up(f"the body did not come within {settings.body_timeout_s:g} s")
        elif waited_s > settings.idle_timeout_s and self._is_idle:
            self.close()

    @property
    def is_at_rest(self) -> bool:
        """Whether no byte of a request has come, not even into the kernel's buffer."""
        return self._phase is Phase.IDLE and not _has_more(self.socket)

    @property
    def _is_idle(self) -> bool:
        if (
            self._phase is Phase.ANSWER
        ):  # the client leaves it unread, or its handler waits for more of the body
            return self.writing() or (self.reading() and not self._read_whole)
        return self._phase is Phase.IDLE

    def refuse(self, problem: Problem) -> None:
        """Answer in the place of a handler, and close."""
        self._answer(problem)
        self.close()

    def _give_up(self, detail: str) -> None:
        self.refuse(Problem(408, detail))

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = time.monotonic()

    # -- answers

    def write(self, data: bytes | memoryview) -> Future[None]:
        """As `IOStream`'s; Tornado's bare answer becomes a problem."""
        if len(data) <= _BARE_MAX_BYTES and (bare := _BARE.fullmatch(data)):
            if bare[1] == b"1":
                return super().write(data)
            return self._answer(self.problem or self._malformed())
        self._answered = True
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:
        """As `IOStream`'s; what makes Tornado close without a word is answered first."""
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
        if self._answered:  # in the middle of an answer, another one would be taken for a part of it
            return super().write(b"")
        self._answered = True
        return super().write(self._answer_of(problem, self.head))

    # -- the socket

    def set_nodelay(self, value: bool) -> None:
        """As `IOStream`'s, but it is set once, and stays.

        Tornado turns it on at the end of each answer and off again: two calls of the kernel, for an answer
        that is handed over in one piece in between.
        """
        if value and not self._no_delay and self.socket is not None:
            self._no_delay = True
            super().set_nodelay(True)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """As `IOStream`'s; notices a request's first byte, and that the client sends."""
        size = super().read_from_fd(buf)
        if size and self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        elif size and self._phase is Phase.ANSWER:
            self._since = time.monotonic()
        return size

    def write_to_fd(self, data: memoryview) -> int:
        """As `IOStream`'s; notices that the client reads."""
        if self._phase is Phase.ANSWER:
            self._since = time.monotonic()
        return super().write_to_fd(data)

    def close_fd(self) -> None:
        """As `IOStream`'s; slowly where the client may still be sending."""
        if self._answered and (not self._read_whole or _has_more(self.socket)):
            connection, self.socket = self.socket, None  # type: ignore[assignment]
            self._lingering.take(connection)
        else:
            super().close_fd()


def _has_more(connection: socket.socket | None) -> bool:
    """Whether bytes wait that nobody has read; closed now, the connection would be reset."""
    if connection is None:
        return False
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
