"""A seat: the place that one unit of work has in its lane."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from db.capacity.endpoint import Endpoint

if TYPE_CHECKING:
    from db.database import Database


class Slot:
    """One place of a lane, and the note that its task has one. Lives as long as its unit of work.

    Dropped while taken, it is given back by the loop: whoever had it is gone.
    """

    def __init__(self, database: Database, endpoint: Endpoint, label: str) -> None:
        self.taken = False
        self._database = database
        self._endpoint = endpoint
        self._label = label
        self._holder: object = None

    async def take(self, timeout_s: float) -> float:
        """Take a place, without holding up the event loop.

        Returns:
            How long that took, in seconds.

        Raises:
            PoolTimeout: none came free in time.
            NestedUnitOfWork: the calling task has one already.
        """
        holder = asyncio.current_task()
        self._database.claim(holder, self._label)
        began = time.monotonic()
        try:
            await self._endpoint.limiter.take(timeout_s)
        except BaseException:
            self._database.unclaim(holder)
            raise
        self._holder, self.taken = holder, True
        self._loop = asyncio.get_running_loop()
        return time.monotonic() - began

    def let_go(self) -> None:
        """The task may take another, although this one stays taken: a piece of work hangs in it."""
        self._database.unclaim(self._holder)
        self._holder = None

    def leave(self) -> None:
        """Give the place back, if one is taken."""
        if self.taken:
            self.taken = False
            self.let_go()
            self._endpoint.limiter.give_back()

    def __del__(self) -> None:
        if self.taken:
            # Given back by the loop, since the collector comes at any moment, also while this thread holds
            # the lock of the places.
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the database with it
                self._loop.call_soon_threadsafe(self._database.dropped, self._endpoint, self._holder)
