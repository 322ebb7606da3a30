"""The slot that one unit of work has at its endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import time

from db.capacity.limiter import AdmissionLimiter
from db.capacity.registry import UnitRegistry


class Slot:
    """One slot of a limiter, and the note that its task holds one. Lives as long as its unit of work.

    Dropped while taken, it is released by the event loop.
    """

    def __init__(self, registry: UnitRegistry, limiter: AdmissionLimiter, label: str) -> None:
        self.taken = False
        self._registry = registry
        self._limiter = limiter
        self._label = label
        self._holder: object = None

    async def take(self, timeout_s: float) -> float:
        """Take the slot, without blocking the event loop.

        Returns:
            How long that took, in seconds.

        Raises:
            PoolTimeout: none came free in time.
            NestedUnitOfWork: the calling task holds one already.
        """
        holder = asyncio.current_task()
        self._registry.claim(holder, self._label)
        began = time.monotonic()
        try:
            await self._limiter.take(timeout_s)
        except BaseException:
            self._registry.unclaim(holder)
            raise
        self._holder, self.taken = holder, True
        self._loop = asyncio.get_running_loop()
        return time.monotonic() - began

    def let_go(self) -> None:
        """Let the task take another slot, although this one stays taken: a call hangs in it."""
        self._registry.unclaim(self._holder)
        self._holder = None

    def leave(self) -> None:
        """Release the slot, if it is taken."""
        if self.taken:
            self.taken = False
            self.let_go()
            self._limiter.give_back()

    def __del__(self) -> None:
        if self.taken:
            # Released by the loop, since the collector runs at any moment, also while this thread holds the
            # limiter's lock.
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the database with it
                self._loop.call_soon_threadsafe(self._registry.dropped, self._limiter, self._holder)
