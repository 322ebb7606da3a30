"""What may be observed of a database at work, for metrics and watchdogs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Protocol

from db.outcome import Outcome


class ObservedUnit(Protocol):
    """A unit of work, as far as an observer reads it."""

    observed: object
    """The observer's own note."""

    @property
    def label(self) -> str:
        """How messages name it: "POST TaskHandler"."""

    @property
    def opened_at(self) -> float:
        """When it was made, on the clock of `time.monotonic`."""

    @property
    def outcome(self) -> Outcome:
        """What has become of the work."""

    @property
    def pool(self) -> str:
        """Whose connections it uses: "writer" or "reader"."""

    @property
    def statement(self) -> str | None:
        """The SQL that it sent last, without parameters."""

    @property
    def has_connection(self) -> bool:
        """Whether it holds a connection at this moment."""


class Observer:
    """Called at what happens in a `Database`, and lives as long as that; this one ignores all of it.

    It is called while requests wait, on the event loop and from the threads: an override is quick, waits
    for nothing and raises nothing. ``pool`` is "writer" or "reader".
    """

    def queued(self, pool: str) -> None:
        """All slots are taken, and a caller begins to wait; `waited` follows in any case."""

    def waited(self, pool: str, waited_s: float, *, queued: bool, in_vain: bool = False) -> None:
        """A slot was acquired, at once or from the queue; or (``in_vain``) the caller got none."""

    def connected(self, pool: str) -> None:
        """A connection was opened."""

    def disconnected(self, pool: str) -> None:
        """A connection was closed."""

    def checked_out(self, pool: str) -> None:
        """A connection was checked out of its pool."""

    def checked_in(self, pool: str, used_s: float) -> None:
        """A connection was checked in, or discarded."""

    def opened(self, unit: ObservedUnit) -> None:
        """A unit of work has begun; called where it is made."""

    def ended(self, unit: ObservedUnit) -> None:
        """A unit of work is settled, see its ``outcome``."""

    def marker_asked(self, answer: str) -> None:
        """A COMMIT had no answer: "committed", "not committed", or "none", as its marker showed."""

    def left(self, change: int) -> None:
        """A COMMIT was cut while the server was at it (+1), or the server is done with such a one (-1)."""

    def unreplicated(self) -> None:
        """A COMMIT is on no synchronous standby: its wait for one was cancelled, at the server."""

    def behind(self, behind_s: float | None) -> None:
        """How many seconds the reader's server is behind its primary; None where it is no standby."""

    def failover(self) -> None:
        """The writer has connected to another server than before, behind a proxy too."""

    def read_after(self, how: str) -> None:
        """A read with a token has its writes: "reader", at once over a connection of the reader's, whichever
        server that leads to; "waited", there and later; "primary", where it moved to the writer's."""

    def write_lost(self) -> None:
        """A read tells its client of a write that is not on the primary: a failover has lost it."""

    def retries(self, reason: str) -> None:
        """A request, a message or `Database.run_in_transaction` is retried.

        ``reason`` is "deadlock", "serialization", "certification", "busy", "connection lost", or the name of
        the class of an error that an application added.
        """


class Observers(Observer):
    """Calls several observers, in their order. Lives as long as they do."""

    def __init__(self, *observers: Observer) -> None:
        for name, method in vars(Observer).items():
            if isinstance(method, FunctionType):
                setattr(self, name, _each([getattr(observer, name) for observer in observers]))


def _each(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def call(*args: object, **kwargs: object) -> None:
        for method in methods:
            method(*args, **kwargs)

    return call
