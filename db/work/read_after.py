"""A unit of work that reads what certain transactions have written."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from db.capacity.endpoint import Endpoint
from db.observer import Observer
from db.work.async_unit_of_work import AsyncUnitOfWork
from db.work.unit_of_work import call_plain
from db.written import Written

_LOOK_AGAIN_S = 0.005
"""Some hundred bytes of a log arrive in less; a look costs the replica less than a read of one row."""


class _Behind(Exception):
    """A write is not there, and the unit's first function was not called. Does not leave this module."""


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
        self._first: Callable[[], asyncio.Future[Any]] | None = None

    def _start(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        if not self._written or function != self._unit.call:
            return super()._start(function, *args, **kwargs)
        self._first = functools.partial(super()._start, function, *args, **kwargs)
        return super()._start(function, self._look_and_call, *args, **kwargs)

    def _look_and_call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Called in place of the unit's first function: a look costs a round trip, and no way to a thread."""
        if not self._unit.sees(self._written, decides=self._endpoint is self._primary):
            raise _Behind
        self._seen("reader")
        return call_plain(self.label, function, *args, **kwargs)

    async def _result(self, answer: asyncio.Future[Any], function: Callable[..., Any]) -> Any:
        try:
            return await super()._result(answer, function)
        except _Behind:
            if self._first is None:
                raise
            await self._wait()
            return await super()._result(self._first(), function)
        finally:
            self._first = None  # it holds what the function was given

    async def _wait(self) -> None:
        """Wait until what the unit reads next has the writes, or until it is known that they are lost."""
        give_up_at, how = time.monotonic() + self._wait_s, "waited"
        unit, on_primary = self._unit, self._endpoint is self._primary
        while True:
            if not on_primary and time.monotonic() < give_up_at:
                await asyncio.sleep(_LOOK_AGAIN_S)
            elif not on_primary:
                on_primary, how = True, "primary"
                await self._move()
            else:
                self.lost_write = True
                self._observer.write_lost()
                break
            self._check_goes_on()
            looked = super()._start(unit.call, unit.sees, self._written, decides=on_primary)
            if await super()._result(looked, unit.sees):
                break
        self._check_goes_on()
        self._seen(how)

    def _seen(self, how: str) -> None:
        self._written = []
        self._observer.read_after(how)

    async def _move(self) -> None:
        if self._slot is not None:
            self._slot.release()
        in_threads = self._executor is self._endpoint.threads
        self._executor = self._primary.threads if in_threads else self._primary.executor
        self._slot, self._endpoint = None, self._primary
        self._unit.read_from(self._primary.engine, self._primary.backend)
        await super()._acquire_slot()

    def _check_goes_on(self) -> None:
        """Raise where the unit was stopped, or its owner went on without it, while this one waited."""
        if self._guard.reason is not None:
            raise self._guard.reason
        if self._settling:
            raise self._over()
