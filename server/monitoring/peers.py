"""The processes of one server, and how each queries the state of the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

_TIMEOUT_S = 1.0
"""A process that has not answered by then is reported as such."""

_PIECE_BYTES = 64 * 1024


STATE = b"?"
"""The question that `Peers.listen` answers."""

Look = Callable[..., dict[str, Any]]
"""What answers a question, given what follows the question's first byte, if anything does, as text."""

QUESTION_MAX = 128
"""How many bytes a question may have."""


class Line(NamedTuple):
    """Both ends of a pair of sockets over which one process is queried. Lives as long as the server."""

    asking: socket.socket
    asked: socket.socket


class Peers:
    """A line to each process. Created before the fork, so that each process has all lines.

    Lives as long as the server; each process answers on its own line, from `listen` to `close`. A line
    outlives its process: the process that replaces it answers there.

    The sockets have no name, abstract or other: every process of the machine, and a container that shares
    the network, could connect to a name. A query passes one end of a new socket pair over the line, and
    awaits the answer at the other end.
    """

    def __init__(self, processes: int) -> None:
        self._lines: list[Line] = []
        for _ in range(processes if processes > 1 else 0):
            line = Line(*socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
            for end in line:
                end.setblocking(False)
            self._lines.append(line)
        self._index = 0
        self._looks: dict[bytes, Look] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answers: set[asyncio.Task[None]] = set()

    async def listen(self, index: int, look: Look) -> None:
        """Answer queries with the result of ``look``."""
        self._index = index
        self.answer(STATE, look)
        if self._lines:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._lines[index].asked, self._on_question, self._lines[index].asked)

    def answer(self, question: bytes, look: Look) -> None:
        """Answer another question as well, of one byte, and those that begin with it: see `Look`."""
        self._looks[question] = look

    async def ask(self, question: bytes = STATE) -> list[dict[str, Any]]:
        """What every process answers, this one included; for one that does not answer, an error."""
        if question[:1] not in self._looks:
            return []
        indices = range(len(self._lines) or 1)
        return list(await asyncio.gather(*(self._ask(index, question) for index in indices)))

    def close(self) -> None:
        """Stop answering."""
        if self._loop is not None:
            self._loop.remove_reader(self._lines[self._index].asked)
            for task in self._answers:
                task.cancel()
        for line in self._lines:
            for end in line:
                end.close()

    async def _ask(self, index: int, question: bytes) -> dict[str, Any]:
        if index == self._index:
            return self._look_at(question)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer: dict[str, Any] = json.loads(await _answer_over(self._lines[index], question))
                return answer
        except (TimeoutError, OSError, ValueError):  # also a full line: earlier queries were not answered
            return {"process": index, "error": f"no answer within {_TIMEOUT_S:g} s"}

    def _on_question(self, asked: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            question, descriptors, *_ = socket.recv_fds(asked, QUESTION_MAX, 1)
            for fd in descriptors:
                task = asyncio.get_running_loop().create_task(
                    self._answer(socket.socket(fileno=fd), question)
                )
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)

    def _look_at(self, question: bytes) -> dict[str, Any]:
        look, rest = self._looks[question[:1]], question[1:].decode()
        return look(rest) if rest else look()

    async def _answer(self, asking: socket.socket, question: bytes) -> None:
        # OSError: the querying process has timed out, or is gone.
        with asking, contextlib.suppress(OSError, TimeoutError):
            asking.setblocking(False)
            if question[:1] in self._looks:
                async with asyncio.timeout(_TIMEOUT_S):
                    answer = json.dumps(self._look_at(question)).encode()
                    await asyncio.get_running_loop().sock_sendall(asking, answer)


async def _answer_over(line: Line, question: bytes) -> bytes:
    """The answer of the process at the other end of the line."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(line.asking, [question], [theirs.fileno()])
        ours.setblocking(False)
        answer = bytearray()
        while piece := await asyncio.get_running_loop().sock_recv(ours, _PIECE_BYTES):
            answer += piece
        return bytes(answer)
