"""What may be seen of a database at work, by whoever counts or watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.work.async_unit_of_work import AsyncUnitOfWork
    from db.work.unit_of_work import UnitOfWork


class Observer:
    """Told of what happens in a `Database`, and lives as long as that; this one takes no notice of anything.

    It is called while requests wait, on the event loop and from the threads: an override is quick, waits
    for nothing and raises nothing. ``pool`` is "writer" or "reader".
    """

    def queued(self, pool: str) -> None:
        """All places are taken, and somebody waits; `waited` follows in any case."""

    def waited(self, pool: str, waited_s: float, *, queued: bool, in_vain: bool = False) -> None:
        """A place was taken, at once or from the queue; or the wait for it was given up."""

    def connected(self, pool: str) -> None:
        """A connection was opened."""

    def disconnected(self, pool: str) -> None:
        """A connection was closed."""

    def lent(self, pool: str) -> None:
        """A connection was taken out of its pool."""

    def returned(self, pool: str, used_s: float) -> None:
        """A connection came back, or was thrown away."""

    def opened(self, unit: AsyncUnitOfWork | UnitOfWork) -> None:
        """A unit of work has begun; called where it is made."""

    def ended(self, unit: AsyncUnitOfWork | UnitOfWork) -> None:
        """A unit of work is settled, see its ``outcome``."""

    def retries(self, reason: str) -> None:
        """A request, or a message, is tried again: "deadlock", "serialization", "busy", "connection lost"."""
