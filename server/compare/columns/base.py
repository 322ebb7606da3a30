"""What a column is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from tornado.web import RequestHandler

from db.scope import Scope


@dataclass(frozen=True)
class Work:
    """One session, entered into its scope, and the way of its column off the event loop."""

    session: Session
    run: Callable[..., Any]
    """Called with a function and its arguments; returns an awaitable."""
    end: Callable[[], object]
    """Commit at once and end it, for a caller that cannot wait: ``on_finish`` of a WebSocket."""


class Column(ABC):
    """How code finds its session, and what owns, commits and ends it. Lives as long as one scenario.

    Args of each: the settings of a scratch database.
    """

    name: str
    guarded: ClassVar[bool]
    """Whether a session that was ended, or is in use by another caller, refuses to be used."""
    collects: bool = True
    """Whether connections that are dropped come back by a garbage collection; asyncio's do not."""
    scope: Scope
    handler: type[RequestHandler]
    """The base of the scenario's handlers: it makes the session in ``prepare``, and has `run`,
    ``in_new_transaction``, and for what lasts too long ``timeout_s``."""

    @abstractmethod
    def begin(self, label: str) -> Work:
        """A session for work outside of any request; the caller calls its ``end``."""

    @abstractmethod
    def job(
        self, label: str, *, elsewhere: bool = False, entered: bool = True
    ) -> AbstractAsyncContextManager[Work]:
        """A block of work outside of any request, which commits unless it raises.

        Args:
            elsewhere: of another application in the same process.
            entered: whether model code finds its session; False is a mistake.
        """

    @abstractmethod
    def script(self) -> AbstractContextManager[Session]:
        """The same, for code that blocks."""

    @abstractmethod
    def app_settings(self, *, elsewhere: bool = False) -> dict[str, Any]:
        """The settings that the application's handlers look for."""

    @abstractmethod
    def engines(self) -> list[Engine]:
        """The engines whose pools the work has its connections from."""

    @abstractmethod
    async def idle(self, timeout_s: float) -> None:
        """Wait until what the work has started is over."""

    @abstractmethod
    async def close(self, grace_s: float) -> None:
        """Close its sessions and engines."""

    def connections_out(self) -> int:
        """How many connections are checked out of its pools."""
        pools = [engine.pool for engine in self.engines()]
        return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))
