"""HTTP by hand, for clients that disconnect in the middle and for load that costs its sender little."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any, NamedTuple, Self

UNANSWERED = 599
"""The status of a request whose connection was closed without an answer, as Tornado's client has it."""


class Reply(NamedTuple):
    """An answer as it was read from the socket."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Wire:
    """A connection to a server on this machine. Lives until `leave`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(
        self, path: str, *, method: str = "POST", body: bytes = b"", announced: int | None = None
    ) -> None:
        """Send a request, or the beginning of one whose Content-Length is ``announced``."""
        size = len(body) if announced is None else announced
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
        self._writer.write(head.encode() + body)

    async def answer(self, timeout_s: float = 10.0) -> Reply:
        """Read one answer, `UNANSWERED` where the server has closed the connection instead.

        Raises:
            TimeoutError: nothing came.
        """
        async with asyncio.timeout(timeout_s):
            try:
                head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                body = await self._reader.readexactly(int(length or 0))
            except (asyncio.IncompleteReadError, ConnectionError):
                return Reply(UNANSWERED, b"")
            return Reply(int(head.split(None, 2)[1]), body)

    async def ask(self, path: str, *, method: str = "GET", body: bytes = b"") -> Reply:
        """Send one request and read its answer."""
        self.send(path, method=method, body=body)
        return await self.answer()

    def leave(self) -> None:
        """Reset the connection, as the end of a client that is killed."""
        if self._writer.transport.is_closing():
            return
        plain = self._writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
