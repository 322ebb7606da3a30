"""The processes of one server, as they ask each other how they are doing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

_PATIENCE_S = 1.0
"""Who has not answered by then is stuck, and that is what whoever asks has to know."""


class Peers:
    """A private socket for each process. Made before the fork, so that all of them know all of them.

    Lives as long as the server; each process listens to its own socket, from `listen` to `close`. A socket
    outlives its process: the one that takes its place answers there.
    """

    def __init__(self, processes: int) -> None:
        self._sockets: list[socket.socket] = []
        for _ in range(processes if processes > 1 else 0):
            listening = socket.socket(socket.AF_UNIX)
            listening.bind("")  # Linux chooses an abstract name: there is no file to be left behind
            listening.listen()
            listening.setblocking(False)
            self._sockets.append(listening)
        self._index = 0
        self._look: Callable[[], dict[str, Any]] | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, index: int, look: Callable[[], dict[str, Any]]) -> None:
        """Answer the others with what ``look`` returns."""
        self._index, self._look = index, look
        if self._sockets:
            self._server = await asyncio.start_unix_server(self._answer, sock=self._sockets[index])

    async def ask(self) -> list[dict[str, Any]]:
        """What every process has to say, this one included; of one that does not answer, just that."""
        if self._look is None:
            return []
        indices = range(len(self._sockets) or 1)
        return list(await asyncio.gather(*map(self._ask, indices)))

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()
        for listening in self._sockets:
            listening.close()

    async def _ask(self, index: int) -> dict[str, Any]:
        if index == self._index and self._look is not None:
            return self._look()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await _connected(self._sockets[index].getsockname())
                with contextlib.closing(writer):
                    answer: dict[str, Any] = json.loads(await reader.read())
                    return answer
        except (TimeoutError, OSError, ValueError):
            return {"process": index, "error": f"no answer within {_PATIENCE_S:g} s"}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            if self._look is not None:
                writer.write(json.dumps(self._look()).encode())
                await writer.drain()


async def _connected(address: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to an abstract name, whose first byte uvloop would take for its end."""
    own = socket.socket(socket.AF_UNIX)
    try:
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, address)
        return await asyncio.open_unix_connection(sock=own)
    except BaseException:
        own.close()
        raise
