"""Admission: how many units of work an engine serves at once, first come, first served."""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left
from collections import deque
from typing import Protocol, Self, TypeVar

from db.capacity.slot import Slot
from db.errors import PoolTimeout
from db.observer import Observer

W = TypeVar("W", bound="_Waiter")

_SERVED_MAX = 65_536
"""How many waiters are remembered: more than a process serves while one waits."""


class AdmissionLimiter:
    """As many slots as an engine has connections. Lives as long as its engine.

    A unit of work acquires a slot before its first statement and releases it when it is settled,
    so that no thread ever waits for a connection: with 5 threads, 5 connections and 40 requests of
    two statements each, waiting in the pool ended in 33 time-outs, waiting here in none.

    Safe for threads and for event loops at once: jobs and requests stand in one queue.

    In overload a caller is refused at once, and not after a wait that is in vain. How many can be served in
    time depends on how long their work takes. So without ``waiting_max`` the queue's own pace decides: a
    caller is refused that finds as many before it as were served in the time that it would wait, and one for
    each slot besides, since work that is under way counts as none. That holds only where no slot was free for
    all of that time: nothing is known of a queue that is younger, and a burst waits its turn.

    Args:
        size: how many slots there are.
        name: how messages and observers name it.
        waiting_max: how many callers may wait; the next is refused at once.
    """

    def __init__(self, size: int, *, name: str, waiting_max: int | None = None) -> None:
        self.size = size
        self.name = name
        self.waiting_max = waiting_max
        self.refused = 0
        """How many callers were refused a slot since it was made: after their wait, or at once."""

        self.observer = Observer()
        """Called at what happens."""

        self._free = size
        self._expected = 0
        """How many callers `refusal` has admitted that have not come yet."""

        self._queue: deque[_Waiter] = deque()
        self._queued_since: float | None = None
        """When the first caller had to wait since a slot was free."""

        self._served: deque[float] = deque(maxlen=_SERVED_MAX)
        """When waiters were given a slot since then, on the same clock: that of `time.monotonic`."""

        self._lock = threading.Lock()
        self._dropped: deque[_Waiter | None] = deque()
        """What is gone, and has not been looked at yet: a waiter, or a slot (None)."""

    @property
    def taken(self) -> int:
        """How many slots are in use."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._queue)

    def acquire_nowait(self) -> Slot | None:
        """A slot, if one is free and no caller waits for it; else None."""
        with self._lock:
            slot = self._free_slot()
        if self._dropped:
            self._collect()
        return slot

    async def acquire(self, timeout_s: float, *, exempt: bool = False) -> Slot:
        """A slot, without blocking the event loop.

        Args:
            exempt: wait however many callers wait already.

        Raises:
            PoolTimeout: none came free within ``timeout_s``, or too many callers wait already.
            asyncio.CancelledError: the caller was cancelled; it holds no slot.
        """
        slot = self.acquire_nowait()
        if slot is not None:
            self.observer.waited(self.name, 0.0, queued=False)
            return slot
        with _Wait(self):
            waiter = self._join(_LoopWaiter(), timeout_s, exempt)
            try:
                await waiter.wait(timeout_s)
            except BaseException:
                self._abandon(waiter)
                raise
            return self._slot_of(waiter, timeout_s)

    def acquire_blocking(self, timeout_s: float, *, exempt: bool = False) -> Slot:
        """A slot, for a thread that may wait; otherwise as `acquire`.

        Raises:
            PoolTimeout: none came free within ``timeout_s``, or too many callers wait already.
        """
        slot = self.acquire_nowait()
        if slot is not None:
            self.observer.waited(self.name, 0.0, queued=False)
            return slot
        with _Wait(self):
            waiter = self._join(_ThreadWaiter(), timeout_s, exempt)
            try:
                waiter.wait(timeout_s)
            except BaseException:  # KeyboardInterrupt
                self._abandon(waiter)
                raise
            return self._slot_of(waiter, timeout_s)

    def refusal(self, timeout_s: float) -> PoolTimeout | None:
        """What `acquire` would raise at once; the caller counts as refused. To be called on the event loop.

        None for a caller that is admitted. It is expected to call `acquire` in the next callback of the loop,
        and counts until then: a loop that is late has read many requests before the first of them runs.
        """
        with self._lock:
            ahead = self._expected - self._free
            if ahead < 0 or self._has_room(timeout_s, ahead):
                self._expected += 1
                asyncio.get_running_loop().call_soon(self._comes)
                return None
            self.refused += 1
            waiting = len(self._queue) + ahead
        self.observer.queued(self.name)
        self.observer.waited(self.name, 0.0, queued=True, in_vain=True)
        return PoolTimeout(too_many_wait(self.size, self.name, waiting))

    def _comes(self) -> None:
        with self._lock:
            self._expected -= 1

    def release(self, slot: Slot) -> None:
        """See `Slot.release`."""
        with self._lock:
            was_taken, slot.taken = slot.taken, False
            waiter = self._next() if was_taken else None
        self._wake(waiter)

    def dropped(self) -> None:
        """Take back a slot whose object was dropped unreleased."""
        self._abandon(None)

    def _abandon(self, gone: _Waiter | None) -> None:
        """Forget a waiter that gave up, and take back the slot that it was given just then; or a slot alone.

        Called by the collector as well: at any moment, also while this thread holds the lock, for which it
        must not wait then. The one that holds the lock collects what is gone when it has released it.
        """
        self._dropped.append(gone)
        self._collect()

    def _collect(self) -> None:
        while self._dropped and self._lock.acquire(blocking=False):
            waiter = None
            try:
                if self._dropped:
                    waiter = self._without(self._dropped.popleft())
            finally:
                self._lock.release()
            self._wake(waiter, at_once=False)

    def _without(self, gone: _Waiter | None) -> _Waiter | None:
        """With the lock held: the waiter that has the slot now of what is gone, if any has."""
        if gone is not None:
            if gone in self._queue:
                self._queue.remove(gone)
                return None
            if gone.slot is None or not gone.slot.taken:
                return None
            gone.slot.taken = False
        return self._next()

    def _free_slot(self) -> Slot | None:
        """With the lock held: a slot, where a caller that comes now may have it."""
        if not self._free or self._queue:
            return None
        self._free -= 1
        return Slot(self)

    def _next(self) -> _Waiter | None:
        """With the lock held: give a slot that came free to the first waiter, else put it back."""
        if not self._queue:
            self._free += 1
            if self._queued_since is not None:
                self._queued_since = None
                self._served.clear()
            return None
        waiter = self._queue.popleft()
        waiter.slot = Slot(self)
        self._served.append(time.monotonic())
        return waiter

    def _has_room(self, timeout_s: float, ahead: int = 0) -> bool:
        """With the lock held: whether a caller may wait that would do so for this long.

        Args:
            ahead: how many callers it has before it beside those in the queue.
        """
        if self.waiting_max is not None:
            return len(self._queue) + ahead < self.waiting_max
        now = time.monotonic()
        if self._queued_since is None or now - self._queued_since < timeout_s:
            return True
        served = len(self._served) - bisect_left(self._served, now - timeout_s)
        return len(self._queue) + ahead < served + self.size

    def _wake(self, waiter: _Waiter | None, *, at_once: bool = True) -> None:
        """Wake a waiter that has been given a slot; the next one, where its event loop is closed."""
        while waiter is not None and not waiter.wake(at_once=at_once):
            with self._lock:
                waiter = self._without(waiter)
        if self._dropped:
            self._collect()

    def _join(self, waiter: W, timeout_s: float, exempt: bool) -> W:
        with self._lock:
            waiter.slot = self._free_slot()  # one that came free since `acquire_nowait`
            waiting = len(self._queue)
            refused = waiter.slot is None and not (self._has_room(timeout_s) or exempt)
            if refused:
                self.refused += 1
            elif waiter.slot is None:
                self._queue.append(waiter)
                if self._queued_since is None:
                    self._queued_since = time.monotonic()
        self._wake(None if waiter.slot is None else waiter)
        if refused:
            raise PoolTimeout(too_many_wait(self.size, self.name, waiting))
        return waiter

    def _slot_of(self, waiter: _Waiter, timeout_s: float) -> Slot:
        """What a waiter was given, where that came with the end of its time as well."""
        with self._lock:
            if waiter.slot is None:
                self._queue.remove(waiter)
                self.refused += 1
        self._wake(None)
        if waiter.slot is None:
            raise PoolTimeout(none_came_free(self.size, self.name, timeout_s))
        return waiter.slot


def none_came_free(size: int, name: str, timeout_s: float) -> str:
    """What a client reads whose wait was in vain."""
    return f"all {size} slots for {name} are taken; none came free in {timeout_s:g} s"


def too_many_wait(size: int, name: str, waiting: int) -> str:
    """What a client reads that is refused at once."""
    return f"all {size} slots for {name} are taken, and {waiting} callers wait for one already"


class _Waiter(Protocol):
    """A caller in the queue. Lives until it has a slot, or gives up."""

    slot: Slot | None
    """What it was given. Set with the limiter's lock held; dropped with the waiter, it is released."""

    def wake(self, *, at_once: bool) -> bool:
        """End its wait, from whichever thread. Returns False where it is gone.

        Args:
            at_once: False for a call of the collector, which may interrupt the waiter's own event loop.
        """


class _ThreadWaiter:
    """The waiter of a thread."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        # No `threading.Event`: its lock may be this thread's own when the collector wakes the waiter.
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self, timeout_s: float) -> None:
        """Wait for `wake`, or for the end of the time."""
        self._asleep.acquire(timeout=timeout_s)

    def wake(self, *, at_once: bool) -> bool:
        self._asleep.release()
        return True


class _LoopWaiter:
    """The waiter of a coroutine. Woken on its own loop, as most are, it is resumed without a detour."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def wait(self, timeout_s: float) -> None:
        """Wait for `wake`, or for the end of the time."""
        timer = self._loop.call_later(timeout_s, self._end)
        try:
            await self._over
        finally:
            timer.cancel()

    def wake(self, *, at_once: bool) -> bool:
        if at_once and asyncio._get_running_loop() is self._loop:
            self._end()
            return True
        try:
            self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop is closed, and the waiter is gone with it
            return False
        return True

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


class _Wait:
    """Reports one waiter to the observer. Lives until the waiter is served or gives up."""

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self._name, self._observer = limiter.name, limiter.observer

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._observer.queued(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        waited_s = time.monotonic() - self._began
        in_vain = kind is not None and issubclass(kind, PoolTimeout)
        self._observer.waited(self._name, waited_s, queued=True, in_vain=in_vain)
