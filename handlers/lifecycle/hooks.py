"""Hooks round the end of a request's unit of work: before its commit, after it, and in a new transaction."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from sqlalchemy.orm import Session
from tornado.gen import is_coroutine_function

from db.work.async_unit_of_work import Work

log = logging.getLogger("onfinish.handlers")

InThread = Callable[[Callable[[], object]], Awaitable[object]]


class OnCommit:
    """The functions of one request, or of one message. Lives until the last of them has ended."""

    def __init__(self) -> None:
        self.calls: list[partial[object]] = []
        """Those that are due, in turn."""

        self.under_way = False
        """Whether one of them is being called."""

    def __bool__(self) -> bool:
        return bool(self.calls)

    def add(self, call: partial[object]) -> None:
        """Register a function, plain or async. A function that is being called may add others."""
        self.calls.append(call)

    async def call(self, summary: str, in_thread: InThread) -> None:
        """Call all of them, one after the other; each once. What they raise is logged.

        Args:
            summary: how log lines name the request.
            in_thread: calls a plain function, which may block, in a thread.
        """
        self.under_way = True
        try:
            while self.calls:
                await self._call(self.calls.pop(0), summary, in_thread)
        finally:
            self.under_way = False

    async def _call(self, call: partial[object], summary: str, in_thread: InThread) -> None:
        try:
            result = call() if is_async(call.func) else await in_thread(call)
            if isinstance(result, Awaitable):
                await result
        except (SystemExit, KeyboardInterrupt):  # as signal handlers raise them, which end the process
            raise
        except BaseException as error:
            # A cancel of the running task goes on; one of what the function waited for does not.
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            log.exception("%s: an on_commit function failed; the work stays committed", summary)


def is_async(function: Callable[..., object]) -> bool:
    """Whether a function is one of the event loop: a coroutine function, Tornado's own kind among them."""
    called = getattr(function, "__call__", function)  # noqa: B004  # of an object that can be called
    return (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(called)
        or is_coroutine_function(function)
    )


def is_being_cancelled() -> bool:
    """Whether the running task is: else a `CancelledError` comes from something that it has awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class CommitHooks:
    """The hooks of one attempt at a request. Lives as long as its handler."""

    def __init__(self) -> None:
        self.on_commit = OnCommit()
        self.follow_ups: list[Work] = []
        """Each in a unit of work of its own, once this one is committed or rolled back."""
        self._last: list[Work] = []

    def __bool__(self) -> bool:
        return bool(self._last or self.follow_ups or self.on_commit)

    def before_commit(self, function: Callable[..., object], args: Any, kwargs: Any) -> None:
        """Register a function for the last work of the unit, called with its session."""
        self._last.append(lambda session: function(session, *args, **kwargs))

    def follow_up(self, function: Callable[..., object], args: Any, kwargs: Any) -> None:
        """Register a function for a unit of work that follows, called with the session of that."""
        self.follow_ups.append(lambda session: function(session, *args, **kwargs))

    @property
    def last_work(self) -> Work | None:
        """All functions for before the commit, as one."""
        calls = self._last
        if not calls:
            return None

        def last(session: Session) -> None:
            for call in calls:
                call(session)

        return last


class ExplicitCommit:
    """A handler's call of `commit`, before the end of its request. Lives as long as that handler."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._is_known = False

    @property
    def begun(self) -> bool:
        """Whether `commit` was called, whatever its result."""
        return self._task is not None

    @property
    def under_way(self) -> bool:
        """Whether it has begun and not ended: a cancelled caller does not cancel it."""
        return self._task is not None and not self._task.done()

    @property
    def done(self) -> bool:
        """Whether it has succeeded."""
        task = self._task
        return task is not None and task.done() and not task.cancelled() and task.exception() is None

    @property
    def is_awaited(self) -> bool:
        """Whether the answer waits for its result: it is under way, or has failed and no caller knows."""
        return self.under_way or (self.begun and not self.done and not self._is_known)

    async def make(self, commit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Commit, or wait for the commit that is under way.

        Raises:
            DatabaseError: nothing was committed, or (`OutcomeUnknown`) that is not known.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(commit())
        try:
            await asyncio.shield(self._task)
        except Exception:
            self._is_known = True  # a caller that is cancelled does not get here
            raise

    async def end(self) -> Exception | None:
        """Wait until it is over, in place of a caller that is gone. Returns its exception, if any."""
        if self._task is None:
            return None
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        return error if isinstance(error, Exception) else None
