"""Connections that are closed slowly, so that their client can read the response."""

from __future__ import annotations

import asyncio
import contextlib
import socket

LINGER_S = 10.0
"""Many clients send all of a body before they read; over 100 Mbit/s that is 125 MB."""

LINGER_MAX_BYTES = 128 * 1024 * 1024
"""Reading and discarding as much costs the loop about 50 ms; nginx has no such limit, but 30 s."""

_DISCARDED = bytearray(64 * 1024)
"""One buffer for all connections: its content is never read."""


class Lingering:
    """The sockets of one server that are closed when their clients close. Lives as long as the server.

    A socket that is closed while its client still sends answers with a reset, and a reset makes the client's
    kernel discard received data that was not read yet: the error response. So the sending side is shut down
    (FIN), and incoming data is read and discarded, until the client closes, within limits.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def take(self, connection: socket.socket) -> None:
        """Close a socket once its client has, or at the limits. It then belongs to this object alone."""
        task = asyncio.get_running_loop().create_task(self._close(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close all of them at once."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        left = LINGER_MAX_BYTES
        with contextlib.closing(connection), contextlib.suppress(OSError, TimeoutError):
            connection.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_S):
                while left > 0 and (size := await loop.sock_recv_into(connection, _DISCARDED)):
                    left -= size
