"""A unit of work that reads what certain transactions have written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from db.capacity.endpoint import Endpoint
from db.observer import Observer
from db.work.async_unit_of_work import AsyncUnitOfWork
from db.written import Written

_LOOK_AGAIN_S = 0.005
"""Some hundred bytes of a log arrive in less; a look costs the replica less than a read of one row."""


class ReadAfterUnit(AsyncUnitOfWork):
    """A read-only unit whose reads show certain transactions: on the reader, or else on the primary.

    Lives as any. Before its first statement it looks their commit markers up over the connection that it
    reads from: a pooler or a proxy may choose another replica for each. Where one is missing it looks again,
    for a while; then it moves to the primary, in a read-only transaction of the writer's. What is missing
    there was lost in a failover: `lost_write`.

    Args:
        written: the transactions. One whose marker may have been deleted counts as there.
        primary: the writer.
        wait_s: how long the reader may take to show them.
        observer: told how it ended.
    """

    def __init__(
        self,
        *arguments: Any,
        written: Sequence[Written],
        primary: Endpoint,
        wait_s: float,
        observer: Observer,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._written = [each for each in written if not each.is_old]
        self._primary = primary
        self._wait_s = wait_s
        self._observer = observer

    async def _acquire_slot(self) -> None:
        await super()._acquire_slot()
        if not self._written:
            return
        give_up_at, how = time.monotonic() + self._wait_s, "replica"
        while not await self._sees():
            if self._endpoint is self._primary:
                self.lost_write = True
                self._observer.write_lost()
                break
            if time.monotonic() >= give_up_at:
                how = "primary"
                await self._move()
            else:
                how = "waited"
                await asyncio.sleep(_LOOK_AGAIN_S)
                self._check_goes_on()
        self._written = []
        self._observer.read_after(how)

    async def _sees(self) -> bool:
        unit = self._unit
        seen = await self._result(self._start(unit.call, unit.sees, self._written), unit.sees)
        self._check_goes_on()
        return bool(seen)

    async def _move(self) -> None:
        if self._slot is not None:
            self._slot.release()
        self._slot, self._endpoint = None, self._primary
        self._unit.read_from(self._primary.engine, self._primary.backend)
        await super()._acquire_slot()

    def _check_goes_on(self) -> None:
        """Raise where the unit was stopped, or its owner went on without it, while this one waited."""
        if self._guard.reason is not None:
            raise self._guard.reason
        if self._settling:
            raise self._over()
