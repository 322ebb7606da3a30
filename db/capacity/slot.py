"""The admission of one caller, which `AdmissionLimiter.acquire` returns."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Issuer(Protocol):
    """What a slot comes from, as far as its end depends on it."""

    def release(self, slot: Slot) -> None:
        """Hand the slot to the first waiter, or put it back. Does nothing where that was done before."""

    def dropped(self) -> None:
        """As `release`, for a slot that the collector has taken: at any moment, on any thread."""


class Slot:
    """One slot of a limiter. Lives until it is released, by its caller or at the end of a ``with``.

    One that is dropped is released too, also with a thread, a task or an event loop that has ended.
    """

    __slots__ = ("taken", "_issuer", "_holders", "_holder")

    def __init__(self, issuer: Issuer) -> None:
        self.taken = True
        self._issuer = issuer
        self._holders: dict[object, str] | None = None
        self._holder: object = None

    def note_holder(self, holders: dict[object, str], holder: object, label: str) -> None:
        """Enter who holds it among ``holders``, until it is released, dropped or abandoned."""
        holders[holder] = label
        self._holders, self._holder = holders, holder

    def abandon(self) -> None:
        """Let its holder acquire another, although this one stays taken: a call hangs in it."""
        holders, self._holders = self._holders, None
        if holders is not None:
            holders.pop(self._holder, None)
            self._holder = None

    def release(self) -> None:
        """Release the slot. Later calls do nothing."""
        self.abandon()
        self._issuer.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        if self.taken:
            self.abandon()
            self._issuer.dropped()
