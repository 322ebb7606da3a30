"""Places: how many units of work an engine serves at once, first come, first served."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future

from db.errors import NoPlace
from db.observer import Observer


class Places:
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
        self._queue: deque[Future[None]] = deque()
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
            NoPlace: none came free within ``timeout_s``.
            asyncio.CancelledError: the caller was cancelled; no place was taken.
        """
        if self.try_take():
            self._observer.waited(self.name, 0.0, queued=False)
            return
        with _Wait(self):
            ticket = self._join()
            handed_over = asyncio.wrap_future(ticket)
            try:
                done, _ = await asyncio.wait([handed_over], timeout=timeout_s)
            except asyncio.CancelledError:
                self._leave(ticket)
                raise
            if not done and not self._leave(ticket, keep_if_handed_over=True):
                raise self._none_free(timeout_s)

    def take_blocking(self, timeout_s: float) -> None:
        """Take a place from a thread that may wait.

        Raises:
            NoPlace: none came free within ``timeout_s``.
        """
        if self.try_take():
            self._observer.waited(self.name, 0.0, queued=False)
            return
        with _Wait(self):
            ticket = self._join()
            try:
                ticket.result(timeout_s)
            except TimeoutError:
                if not self._leave(ticket, keep_if_handed_over=True):
                    raise self._none_free(timeout_s) from None
            except BaseException:  # KeyboardInterrupt: the place must not be lost with the thread
                self._leave(ticket)
                raise

    def give_back(self) -> None:
        """Hand the place to the first in the queue, or put it back."""
        with self._lock:
            while self._queue:
                ticket = self._queue.popleft()
                if ticket.set_running_or_notify_cancel():
                    break
            else:
                self._free += 1
                return
        ticket.set_result(None)

    def _join(self) -> Future[None]:
        ticket: Future[None] = Future()
        with self._lock:
            if self._free and not self._queue:  # it came free since try_take
                self._free -= 1
                ticket.set_running_or_notify_cancel()
                ticket.set_result(None)
            else:
                self._queue.append(ticket)
        return ticket

    def _leave(self, ticket: Future[None], *, keep_if_handed_over: bool = False) -> bool:
        """Leave the queue. Returns True where a place had been handed over in the same moment and is kept."""
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
                ticket.cancel()
                return False
        if not keep_if_handed_over:
            self.give_back()
        return keep_if_handed_over

    def _none_free(self, timeout_s: float) -> NoPlace:
        return NoPlace(f"all {self.size} places for {self.name} are taken; none came free in {timeout_s:g} s")


class _Wait:
    """Tells the observer of one who stands in the queue. Lives as long as he does."""

    def __init__(self, places: Places) -> None:
        self._name, self._observer = places.name, places._observer

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._observer.queued(self._name)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        waited_s = time.monotonic() - self._began
        in_vain = kind is not None and issubclass(kind, NoPlace)
        self._observer.waited(self._name, waited_s, queued=True, in_vain=in_vain)
