"""A hop: one trip of a unit's work to a thread that may wait for the database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


class Hop:
    """Work that runs in a thread, and those on the event loop who wait for it.

    Lives until the work is over. Starts at once. Whoever waits may be cancelled, or be told to go on
    without it; the work runs on all the same, since a thread cannot be stopped.

    Args:
        threads: as many as there are places, so that one is free.
        work: called without arguments.
        ended: called on the loop when the work is over, before anybody who waits goes on.
    """

    def __init__(self, threads: Executor, work: Callable[[], Any], ended: Callable[[Hop], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work = work
        self._ended = ended
        self._began = time.perf_counter()
        self.took_s = 0.0
        self.is_over = False
        self.answer: asyncio.Future[Any] = self._loop.create_future()
        self._over: asyncio.Future[None] | None = None
        threads.submit(self._run)

    async def over(self, timeout_s: float | None = None) -> bool:
        """Wait until the work is over, or given up on. Returns whether it is over."""
        if not self.is_over:
            if self._over is None:
                self._over = self._loop.create_future()
            await asyncio.wait([self._over], timeout=timeout_s)
        return self.is_over

    def give_up(self, error: BaseException) -> None:
        """Let those who wait go on without it: ``error`` is what they get for an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _run(self) -> None:
        result, error = None, None
        try:
            result = self._work()
        except BaseException as raised:  # noqa: BLE001  # it belongs to whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._arrive, result, error)

    def _arrive(self, result: Any, error: BaseException | None) -> None:
        self.took_s = time.perf_counter() - self._began
        self.is_over = True
        self._ended(self)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self.answer.done():  # nobody waits any more
            return
        if error is None:
            self.answer.set_result(result)
        elif isinstance(error, StopIteration):  # which no future, and no coroutine, lets through
            self.answer.set_exception(RuntimeError("the function raised StopIteration"))
        else:
            self.answer.set_exception(error)
