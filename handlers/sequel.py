"""What is done round the end of a request's unit of work: before its commit, after it, and afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.orm import Session

from db import AsyncUnitOfWork
from db.async_unit_of_work import Work

log = logging.getLogger("onfinish.handlers")


class AfterCommit:
    """The functions of one request, or of one message. Lives until the last of them has ended."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, call: Callable[[], object]) -> None:
        """Remember a function, plain or async. One that is called meanwhile may add others."""
        self._calls.append(call)

    async def call(self, summary: str) -> None:
        """Call all of them, one after the other; each once. What they raise is logged."""
        while self._calls:
            call = self._calls.pop(0)
            try:
                result = call()
                if isinstance(result, Awaitable):
                    await result
            except Exception:
                log.exception("%s: a function for after the commit failed; the work is kept", summary)


class Sequel:
    """What one attempt at a request has asked for. Lives as long as its handler."""

    def __init__(self) -> None:
        self.after_commit = AfterCommit()
        self.afterwards: list[Work] = []
        """Each in a unit of work of its own, once this one is settled, kept or not."""
        self._last: list[Work] = []

    def __bool__(self) -> bool:
        return bool(self._last or self.afterwards or self.after_commit)

    def before_commit(self, function: Callable[..., object], args: Any, kwargs: Any) -> None:
        """To be called with the session as the last work of the unit."""
        self._last.append(lambda session: function(session, *args, **kwargs))

    def follow_up(self, function: Callable[..., object], args: Any, kwargs: Any) -> None:
        """To be called with another session, afterwards."""
        self.afterwards.append(lambda session: function(session, *args, **kwargs))

    @property
    def last_work(self) -> Work | None:
        """All that is to be done before the commit, as one piece of work."""
        calls = self._last
        if not calls:
            return None

        def last(session: Session) -> None:
            for call in calls:
                call(session)

        return last


class EarlyCommit:
    """A handler's own `commit`, before the end of its request. Lives as long as that handler."""

    def __init__(self) -> None:
        self.done = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it was begun, and whoever waited for it is gone."""
        return self._task is not None

    async def make(self, unit: AsyncUnitOfWork) -> None:
        """Commit. Whoever cancels the caller does not cancel that.

        Raises:
            DatabaseError: nothing was kept, or nobody knows.
        """
        self._task = asyncio.get_running_loop().create_task(unit.settle(keep=True))
        await self.end()

    async def end(self) -> None:
        """Wait until it is over. Raises as `make` does."""
        if self._task is None:
            return
        try:
            await asyncio.shield(self._task)
        except Exception:
            self._task = None
            raise
        self._task, self.done = None, True
