"""What a scope is."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import ClassVar, Concatenate, ParamSpec, TypeVar

from sqlalchemy.orm import Session

P = ParamSpec("P")
R = TypeVar("R")


class Scope(ABC):
    """How model code comes by its session. Lives as long as the program; holds no session longer than asked.

    The owner of a session calls `enter` before the work and `leave` after it; the session itself is made
    and ended elsewhere, by its unit of work.
    """

    name: ClassVar[str]

    @abstractmethod
    def enter(self, session: Session) -> object:
        """Make a session the one that is found from here. Returns what `leave` wants to be given."""

    @abstractmethod
    def leave(self, entered: object) -> None:
        """Let the session of `enter` be found no more. Does not end it."""

    @abstractmethod
    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        """A model function as code under this scope calls it: without the session.

        Args:
            function: takes the session first.
            session: for the scope that passes it on; the others look it up at the call.
        """

    def carry(self, function: Callable[P, R], session: Session) -> Callable[P, R]:
        """A function as `run` calls it for a request that owns ``session``."""
        return function

    @contextlib.contextmanager
    def entered(self, session: Session) -> Iterator[Session]:
        """`enter` and `leave` round a block: for a job, a test, a message of a WebSocket."""
        handle = self.enter(session)
        try:
            yield session
        finally:
            self.leave(handle)

    @property
    def made(self) -> Collection[Session]:
        """Sessions that were made because code asked where there was none; no owner ends them."""
        return ()

    def close(self) -> None:
        """Close what is in `made`. Not while code still works in it."""
        for session in list(self.made):
            session.close()
