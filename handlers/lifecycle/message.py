"""One message of a WebSocket, and what is held back until its work is committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar

from tornado.websocket import WebSocketClosedError

from db import AsyncUnitOfWork
from handlers.lifecycle.hooks import OnCommit


class Message:
    """One attempt at one message. Lives until its unit of work is settled.

    Replies that are written meanwhile in its context, to its own socket or to others, are held until then.
    """

    def __init__(self, unit: AsyncUnitOfWork, on_commit: OnCommit) -> None:
        self.unit = unit
        self.on_commit = on_commit
        self.holds = True
        self._replies: list[Callable[[], object]] = []
        self._closes: list[Callable[[], object]] = []

    def hold(self, reply: Callable[[], object]) -> None:
        """Hold a reply."""
        self._replies.append(reply)

    def hold_close(self, close: Callable[[], object]) -> None:
        """Hold the closing of a socket, until all replies have been written."""
        self._closes.append(close)

    def release(self, *, keep: bool) -> None:
        """Write what was held, or discard it. Sockets that have closed meanwhile are skipped."""
        self.holds = False
        held = [*self._replies, *self._closes]
        self._replies, self._closes = [], []
        for call in held if keep else ():
            with contextlib.suppress(WebSocketClosedError):
                call()


current_message: ContextVar[Message | None] = ContextVar("onfinish_message", default=None)
"""The message that the running task handles. Not a scope: the session is found through its handler."""
