"""The states of a unit of work: what may follow what, and what each means for the work."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from db.outcome import Outcome


class UnitState(enum.IntEnum):
    """Where a unit of work is. Its `StatementGuard` has the one copy, under the lock that a cancel takes.

    Each is what is true if the next line raises: COMMITTING is entered before COMMIT is sent, and ROLLED_BACK
    before ROLLBACK is, since whatever becomes of that, no COMMIT follows.
    """

    OPEN = enum.auto()
    """Statements may be sent; nothing is decided. Whether a transaction has begun, its session knows."""

    CANCELLED = enum.auto()
    """Stopped from outside, see `StatementGuard.reason`: no statement starts, and no COMMIT is sent."""

    COMMITTING = enum.auto()
    """COMMIT is sent, and not answered."""

    COMMITTED = enum.auto()
    """COMMIT was answered, or there was nothing to commit."""

    READ = enum.auto()
    """As COMMITTED, of a unit that is read-only."""

    ROLLED_BACK = enum.auto()
    """Nothing of it is kept: it was undone, or refused by the database at COMMIT."""

    IN_DOUBT = enum.auto()
    """COMMIT was not answered, or code other than the unit of work ended its transaction."""


TRANSITIONS: Mapping[UnitState, frozenset[UnitState]] = {
    UnitState.OPEN: frozenset(
        {
            UnitState.CANCELLED,
            UnitState.COMMITTING,
            UnitState.COMMITTED,  # nothing was written
            UnitState.READ,
            UnitState.ROLLED_BACK,
            UnitState.IN_DOUBT,  # its transaction was ended by other code
        }
    ),
    UnitState.CANCELLED: frozenset({UnitState.ROLLED_BACK, UnitState.IN_DOUBT}),
    UnitState.COMMITTING: frozenset({UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.IN_DOUBT}),
    UnitState.IN_DOUBT: frozenset({UnitState.COMMITTED, UnitState.ROLLED_BACK}),  # the commit marker's answer
    UnitState.COMMITTED: frozenset(),
    UnitState.READ: frozenset(),
    UnitState.ROLLED_BACK: frozenset(),
}
"""What may follow a state. A unit that was cancelled is never committed."""

UNSETTLED = (UnitState.OPEN, UnitState.CANCELLED)
"""No COMMIT and no ROLLBACK was sent."""

SETTLED = frozenset({UnitState.COMMITTED, UnitState.READ, UnitState.ROLLED_BACK, UnitState.IN_DOUBT})
"""The decision is made."""

OUTCOMES: Mapping[UnitState, Outcome] = {
    UnitState.OPEN: Outcome.OPEN,
    UnitState.CANCELLED: Outcome.ROLLED_BACK,
    UnitState.COMMITTING: Outcome.UNKNOWN,
    UnitState.COMMITTED: Outcome.COMMITTED,
    UnitState.READ: Outcome.READ,
    UnitState.ROLLED_BACK: Outcome.ROLLED_BACK,
    UnitState.IN_DOUBT: Outcome.UNKNOWN,
}
"""What each means for the work."""
