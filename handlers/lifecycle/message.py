"""One message of a WebSocket, and what is held back until its work is committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar

from tornado.websocket import WebSocketClosedError

from db import AsyncUnitOfWork
from handlers.lifecycle.hooks import OnCommit


class Message:
    """One message that is worked on, at one attempt. Lives until its unit of work is settled.

    Whatever is written meanwhile in its context, to its own socket or to others, is held until then.
    """

    def __init__(self, unit: AsyncUnitOfWork, on_commit: OnCommit) -> None:
        self.unit = unit
        self.on_commit = on_commit
        self.holds = True
        self._replies: list[Callable[[], object]] = []
        self._closes: list[Callable[[], object]] = []

    def hold(self, reply: Callable[[], object]) -> None:
        """Keep what is to be written."""
        self._replies.append(reply)

    def hold_close(self, close: Callable[[], object]) -> None:
        """Keep what closes a socket, until all has been written."""
        self._closes.append(close)

    def release(self, *, keep: bool) -> None:
        """Write what was held, or forget it. Who has left meanwhile does not get it."""
        self.holds = False
        held = [*self._replies, *self._closes]
        self._replies, self._closes = [], []
        for call in held if keep else ():
            with contextlib.suppress(WebSocketClosedError):
                call()


current_message: ContextVar[Message | None] = ContextVar("onfinish_message", default=None)
"""The message that the running task works on. Not a scope: the session is found through its handler."""
