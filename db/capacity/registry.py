"""The units of work that are open, and which task, thread or greenlet holds one."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Protocol

from db.backend import Backend
from db.capacity.left_commits import LeftCommits
from db.capacity.limiter import AdmissionLimiter
from db.capacity.slot import Slot
from db.errors import Cancelled, NestedUnitOfWork
from db.guard import StatementGuard
from db.observer import ObservedUnit, Observer


class OpenUnit(ObservedUnit, Protocol):
    """A unit of work of the event loop, which can be cancelled from outside."""

    def cancel(self, reason: Cancelled) -> None:
        """Stop the unit; nothing of it is kept."""


class UnitRegistry:
    """Which units are open, and who holds one. Lives as long as its `Database`.

    A holder is a task that has a slot, or a thread or greenlet that works in a unit. One that waited for a
    second slot would be a deadlock with a full pool, and is refused.

    Args:
        left: has the slots of COMMITs that were cut.
    """

    def __init__(self, left: LeftCommits) -> None:
        self.left = left
        self.units: weakref.WeakSet[OpenUnit] = weakref.WeakSet()
        """Those of the event loop."""

        self.observer = Observer()
        """Called at what happens."""

        self._scopes: dict[ObservedUnit, int] = {}
        self._holders: dict[object, str] = {}

    @property
    def open(self) -> list[ObservedUnit]:
        """All that are open, of requests and of scopes, oldest first. For the event loop."""
        units: list[ObservedUnit] = [*self.units, *list(self._scopes)]
        return sorted(units, key=lambda unit: unit.opened_at)

    @property
    def holders(self) -> int:
        """How many tasks, threads and greenlets hold a slot or work in a unit."""
        return len(self._holders)

    def thread_of(self, unit: ObservedUnit) -> int | None:
        """The thread in which a scope is open; None for a unit of the event loop."""
        return self._scopes.get(unit)

    def opened(self, unit: OpenUnit) -> None:
        """Note that a unit of the event loop is open."""
        self.units.add(unit)
        self.observer.opened(unit)

    def ended(self, unit: OpenUnit) -> None:
        """Note that such a unit has released all that it held."""
        self.units.discard(unit)
        self.observer.ended(unit)

    def scope_opened(self, unit: ObservedUnit) -> None:
        """Note that a `session_scope` is open."""
        self._scopes[unit] = threading.get_ident()
        self.observer.opened(unit)

    def scope_ended(self, unit: ObservedUnit) -> None:
        """Note that such a scope has ended."""
        self._scopes.pop(unit, None)
        self.observer.ended(unit)

    async def acquire(
        self, limiter: AdmissionLimiter, label: str, timeout_s: float, *, exempt: bool = False
    ) -> Slot:
        """As `AdmissionLimiter.acquire`; the calling task holds the slot until its end.

        Raises:
            NestedUnitOfWork: it holds one already.
        """
        task = asyncio.current_task()
        self._refuse_second(task, label)
        slot = await limiter.acquire(timeout_s, exempt=exempt)
        slot.note_holder(self._holders, task, label)
        return slot

    def acquire_blocking(
        self, limiter: AdmissionLimiter, backend: Backend, label: str, timeout_s: float
    ) -> Slot:
        """As `AdmissionLimiter.acquire_blocking`; the calling thread or greenlet holds it until its end.

        Raises:
            NestedUnitOfWork: it holds one already, or works in a unit.
        """
        worker = backend.worker()
        self._refuse_second(worker, label)
        slot = limiter.acquire_blocking(timeout_s)
        slot.note_holder(self._holders, worker, label)
        return slot

    def release(self, slot: Slot, guard: StatementGuard | None) -> None:
        """Release the slot of a unit; where its COMMIT was cut, once the server is done with that."""
        if guard is None or guard.left_pid is None:
            slot.release()
        else:
            slot.abandon()
            self.left.keep(slot, guard.left_pid)

    def work_begins(self, worker: object, label: str) -> None:
        """Note that a thread or greenlet works in a unit, until `work_ended`.

        Raises:
            NestedUnitOfWork: it works in another.
        """
        self._refuse_second(worker, label)
        self._holders[worker] = label

    def work_ended(self, worker: object) -> None:
        """Note that it does no more."""
        self._holders.pop(worker, None)

    def _refuse_second(self, holder: object, label: str) -> None:
        held = self._holders.get(holder)
        if held is not None:
            raise NestedUnitOfWork(
                f"{label}: a second unit of work was begun while {held} is open in the same task "
                "or thread; with all slots taken both would wait for ever. Work in that one's session, "
                "or after it: `self.in_new_transaction(…)`"
            )
