"""The processes of one server, as they ask each other how they are doing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

_PATIENCE_S = 1.0
"""A process that has not answered by then is stuck, and that is what the asking one has to know."""

_PIECE_BYTES = 64 * 1024


class Line(NamedTuple):
    """Both ends of a pair of sockets over which one process is asked. Lives as long as the server."""

    asking: socket.socket
    asked: socket.socket


class Peers:
    """A line to each process. Made before the fork, so that all of them have all of them.

    Lives as long as the server; each process answers at its own line, from `listen` to `close`. A line
    outlives its process: the one that takes its place answers there.

    The sockets have no name, abstract or other: what has a name, every process of the machine may connect
    to, and a container that shares the network too. A question is one end of a pair of its own, passed over
    the line, at whose other end the answer is awaited.
    """

    def __init__(self, processes: int) -> None:
        self._lines: list[Line] = []
        for _ in range(processes if processes > 1 else 0):
            line = Line(*socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
            for end in line:
                end.setblocking(False)
            self._lines.append(line)
        self._index = 0
        self._look: Callable[[], dict[str, Any]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answers: set[asyncio.Task[None]] = set()

    async def listen(self, index: int, look: Callable[[], dict[str, Any]]) -> None:
        """Answer the others with what ``look`` returns."""
        self._index, self._look = index, look
        if self._lines:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._lines[index].asked, self._on_question, self._lines[index].asked)

    async def ask(self) -> list[dict[str, Any]]:
        """What every process has to say, this one included; of one that does not answer, just that."""
        if self._look is None:
            return []
        indices = range(len(self._lines) or 1)
        return list(await asyncio.gather(*map(self._ask, indices)))

    def close(self) -> None:
        """Answer no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._lines[self._index].asked)
            for task in self._answers:
                task.cancel()
        for line in self._lines:
            for end in line:
                end.close()

    async def _ask(self, index: int) -> dict[str, Any]:
        if index == self._index and self._look is not None:
            return self._look()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer: dict[str, Any] = json.loads(await _answer_over(self._lines[index]))
                return answer
        except (TimeoutError, OSError, ValueError):  # a full line too: it has not answered those before
            return {"process": index, "error": f"no answer within {_PATIENCE_S:g} s"}

    def _on_question(self, asked: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for fd in socket.recv_fds(asked, 1, 1)[1]:
                task = asyncio.get_running_loop().create_task(self._answer(socket.socket(fileno=fd)))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)

    async def _answer(self, asking: socket.socket) -> None:
        # OSError: it has given up, or is gone.
        with asking, contextlib.suppress(OSError, TimeoutError):
            asking.setblocking(False)
            if self._look is not None:
                async with asyncio.timeout(_PATIENCE_S):
                    answer = json.dumps(self._look()).encode()
                    await asyncio.get_running_loop().sock_sendall(asking, answer)


async def _answer_over(line: Line) -> bytes:
    """What the process at the other end of the line answers."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(line.asking, [b"?"], [theirs.fileno()])
        ours.setblocking(False)
        answer = bytearray()
        while piece := await asyncio.get_running_loop().sock_recv(ours, _PIECE_BYTES):
            answer += piece
        return bytes(answer)
