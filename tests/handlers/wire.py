"""HTTP by hand: bytes that are sent and bytes that come back."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

from tornado.httputil import HTTPHeaders


class WireAnswer:
    """One answer, as it was on the wire."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, _, lines = head.partition(b"\r\n")
        self.first_line = first.decode("latin1")
        self.code = int(self.first_line.split()[1])
        self.headers = HTTPHeaders.parse(lines.decode("latin1"))
        self.body = body


class Wire:
    """A connection to a server. Lives as long as its ``async with`` block."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.writer.close()

    def send(self, *lines: str, body: bytes = b"") -> None:
        """Send a request's head, ``Host`` added, and its body."""
        head = [lines[0], "Host: 127.0.0.1", *lines[1:]]
        self.writer.write("\r\n".join(head).encode("latin1") + b"\r\n\r\n" + body)

    def leave(self) -> None:
        """Go away without a word, as a client does that is killed: the server sees a reset."""
        own: socket.socket = self.writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def answer(self, *, has_body: bool = True) -> WireAnswer:
        """Read one answer; ``has_body=False`` for one that has none whatever its headers say (HEAD, 304)."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n"))[:-2]
            answer = WireAnswer(head, b"")
            if has_body:
                answer.body = await self.reader.readexactly(int(answer.headers["Content-Length"]))
            return answer

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        async with asyncio.timeout(5):
            return await self.reader.read()

    async def is_silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes for a while; what comes is lost."""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return True
