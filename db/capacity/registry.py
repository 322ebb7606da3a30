"""The units of work that are open, and which task, thread or greenlet holds one."""

from __future__ import annotations

import asyncio
import weakref
from typing import Protocol

from db.backend import Backend
from db.capacity.limiter import AdmissionLimiter
from db.errors import Cancelled, NestedUnitOfWork
from db.observer import ObservedUnit, Observer


class OpenUnit(ObservedUnit, Protocol):
    """A unit of work of the event loop, which can be cancelled from outside."""

    def cancel(self, reason: Cancelled) -> None:
        """Stop the unit; nothing of it is kept."""


class UnitRegistry:
    """Which units are open, and who holds one. Lives as long as its `Database`.

    A holder that waits for a second slot while it holds one is a deadlock with a full pool.
    """

    def __init__(self, observer: Observer) -> None:
        self.units: weakref.WeakSet[OpenUnit] = weakref.WeakSet()
        """Those of the event loop."""

        self.idle = asyncio.Event()
        """Set when the last of them has ended."""

        self._scopes: set[ObservedUnit] = set()
        self._holders: dict[object, str] = {}
        self._observer = observer

    @property
    def open(self) -> list[ObservedUnit]:
        """All that are open, of requests and of scopes, oldest first. For the event loop."""
        units: list[ObservedUnit] = [*self.units, *list(self._scopes)]
        return sorted(units, key=lambda unit: unit.opened_at)

    @property
    def holders(self) -> int:
        """How many tasks, threads and greenlets hold a slot or work in a unit."""
        return len(self._holders)

    def opened(self, unit: OpenUnit) -> None:
        """Note that a unit of the event loop is open."""
        self.units.add(unit)
        self.idle.clear()
        self._observer.opened(unit)

    def ended(self, unit: OpenUnit) -> None:
        """Note that such a unit has released all that it held."""
        self.units.discard(unit)
        self._set_idle()
        self._observer.ended(unit)

    def scope_opened(self, unit: ObservedUnit) -> None:
        """Note that a `session_scope` is open."""
        self._scopes.add(unit)
        self._observer.opened(unit)

    def scope_ended(self, unit: ObservedUnit) -> None:
        """Note that such a scope has ended."""
        self._scopes.discard(unit)
        self._observer.ended(unit)

    def claim(self, holder: object, label: str) -> None:
        """Note that a task or thread wants a slot.

        Raises:
            NestedUnitOfWork: it holds one already.
        """
        held = self._holders.get(holder)
        if held is not None:
            raise NestedUnitOfWork(
                f"{label}: a second unit of work was begun while {held} is open in the same task "
                "or thread; with all places taken both would wait for ever. Work in that one's session, "
                "or after it: `self.in_new_transaction(…)`"
            )
        self._holders[holder] = label

    def claim_here(self, label: str, backend: Backend) -> object:
        """Note that the calling thread or greenlet works in a unit; returns what to `unclaim`."""
        worker = backend.worker()
        self.claim(worker, label)
        return worker

    def unclaim(self, holder: object) -> None:
        """Forget a holder."""
        self._holders.pop(holder, None)

    def dropped(self, limiter: AdmissionLimiter, holder: object) -> None:
        """Release the slot of a unit that was dropped unsettled."""
        self.unclaim(holder)
        limiter.give_back()
        self._set_idle()

    def _set_idle(self) -> None:
        if not self.units:
            self.idle.set()
