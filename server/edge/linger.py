"""Connections that are closed slowly, so that their client can read the answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket

LINGER_S = 10.0
"""Many clients send all of a body before they read; over 100 Mbit/s that is 125 MB."""

LINGER_MAX_BYTES = 128 * 1024 * 1024
"""Reading and throwing away costs the loop 50 ms or so for as much; nginx has no such limit, 30 s instead."""

_PIECE = bytearray(64 * 1024)
"""What nobody looks at may be written to one place by all."""


class Lingering:
    """The sockets of one server that wait for their clients' end. Lives as long as the server, which ends it.

    A socket that is closed while its client still sends answers with a reset, and a reset makes the client's
    system throw away what it has received and not yet read: the answer that says why. So the answer's end is
    told (FIN), and what comes is read and thrown away, until the client closes, within limits.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def take(self, connection: socket.socket) -> None:
        """Close a socket once its client has, and soon in any case. Nobody else may use it from now on."""
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
                while left > 0 and (size := await loop.sock_recv_into(connection, _PIECE)):
                    left -= size
