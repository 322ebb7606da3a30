"""The guard of a unit of work's statements: which thread may send one, and how the running one is stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable
from types import CodeType
from typing import Any

from sqlalchemy import Connection

from db.backend import Backend
from db.errors import (
    Cancelled,
    DeadlinePassed,
    OutsideRun,
    SessionNotOwned,
    SessionSettled,
    TransactionAborted,
    TransactionEnded,
    UsageError,
)
from db.state import SETTLED, TRANSITIONS, UNSETTLED, UnitState

OPTION = "onfinish_watch"
"""The execution option under which a session hands its guard to the hooks of its engine."""

OWN = "onfinish_own"
"""The execution option of a statement of ours, which may do what the program's may not: BEGIN."""

ENDS_TRANSACTION = 1
"""What a statement does that ends a transaction, or begins one: COMMIT, ROLLBACK, BEGIN."""

CHANGES_SESSION = 2
"""What a statement does that the connection's next user would meet: SET, a temporary table, a lock."""

_OPEN, _COMMITTING, _COMMITTED = UnitState.OPEN, UnitState.COMMITTING, UnitState.COMMITTED

_ANY_WORKER = object()

_at_work: dict[object, StatementGuard] = {}
"""The guards of the units that are at work, by thread or greenlet."""

Outer = tuple[object, "StatementGuard | None"]
"""A thread or greenlet, and the guard that was at work there before."""


class StatementGuard:
    """What the engine's hooks, and a cancel, know of one unit of work.

    Made with its unit, and of no use after it. It reaches the hooks as an execution option of the
    session; only the pool's own hooks, which know of no session, ask for the guard at work.
    It has the unit's state, which a cancel from another thread changes, or must not change any more.
    Its lock stands between the thread that runs a statement and the one that wants it stopped: a
    cancel never reaches a connection that has been closed or gone back to the pool, and never a COMMIT.

    Args:
        label: how messages name the unit: "POST TaskHandler".
        deadline_at: on the clock of `time.monotonic`; None for no limit. `begin_by`, on the same clock, is
            when a unit that stood in the queue has waited long enough for its transaction to begin.
        confined: statements are allowed between `enter` and `leave` only (a request's unit), or
            from anywhere (a script's).
        isolation_level: the one that the unit is made with, None for the engine's.
        retries: the work is retried where its connection turns out to be gone. Any other connection is
            pinged before it is used, however short it was idle.

    ``state`` is changed by `move` alone. ``reason``: the error of a unit that was stopped, raised in place of
    what it would do next. ``abandoned``: see `abandon`. ``began``: the transaction is there, as far as the
    driver knows; never for a reader. ``ended``: what has ended it, where that was another than the unit of
    work. ``marked``: how to tell the transaction from another, once the program has had the driver's
    connection. ``changed_session``: its connection is closed, not checked in. ``may_commit``: the unit of
    work itself is at its COMMIT. ``has_written``: the server has reported rows that the transaction inserted,
    updated or deleted. ``marker``: the commit marker, where it goes in one string with COMMIT;
    ``marker_was_refused``: that has failed, and COMMIT has not run. ``left_pid``: the server's id of the
    connection that was cut at its COMMIT, at which the server may be still. ``statements``: how many were
    sent, the commit marker's among them; BEGIN and COMMIT are none.

    Two are unset until they are needed. ``called_from``: code and line that called `run` last, see
    `AsyncUnitOfWork`. ``recording``: what a `Recorder` has recorded of it.
    """

    called_from: tuple[CodeType, int]
    recording: object

    __slots__ = (
        "label",
        "deadline_at",
        "begin_by",
        "state",
        "reason",
        "abandoned",
        "may_commit",
        "has_written",
        "marker",
        "marker_was_refused",
        "left_pid",
        "was_rolled_back",
        "cancelled",
        "met_error",
        "began",
        "ended",
        "marked",
        "changed_session",
        "isolation_level",
        "statement",
        "statements",
        "retries",
        "called_from",
        "recording",
        "_confined",
        "_worker",
        "_backend",
        "_connection",
        "_lock",
    )

    def __init__(
        self,
        label: str,
        backend: Backend,
        *,
        deadline_at: float | None,
        confined: bool,
        isolation_level: str | None,
        retries: bool,
    ) -> None:
        self.label = label
        self.deadline_at = deadline_at
        self.begin_by: float | None = None
        self.state = _OPEN
        self.reason: Cancelled | None = None
        self.abandoned = False
        self.may_commit = False
        self.has_written = False
        self.marker: str | None = None
        self.marker_was_refused = False
        self.left_pid: int | None = None
        self.was_rolled_back = False
        self.cancelled = False
        self.met_error = False
        self.began = False
        self.ended = ""
        self.marked: object = None
        self.changed_session = False
        self.isolation_level = isolation_level
        self.statement: str | None = None
        self.retries = retries
        self.statements = 0
        self._confined = confined
        self._worker: object = None if confined else _ANY_WORKER
        self._backend = backend
        self._connection: Any = None
        self._lock = threading.Lock()

    @property
    def has_connection(self) -> bool:
        """Whether the unit has a connection of the driver."""
        return self._connection is not None

    def seconds_left(self) -> float | None:
        """Time until the deadline, 0 when it has passed, None without one."""
        return None if self.deadline_at is None else max(0.0, self.deadline_at - time.monotonic())

    def begin_anew(self) -> None:
        """The transaction was rolled back before it had done anything; another one follows."""
        self.began = self.was_rolled_back = False

    def use(self, backend: Backend) -> None:
        """The unit goes on at another server; it has no connection at the moment."""
        self._backend = backend

    def move(self, to: UnitState) -> None:
        """Enter a state.

        Raises:
            RuntimeError: it is none that may follow; nothing has changed.
        """
        with self._lock:
            self._move(to)

    def _move(self, to: UnitState) -> None:
        """As `move`, of a caller that holds the lock."""
        if to not in TRANSITIONS[self.state]:
            raise RuntimeError(f"{self.label}: a unit of work that is {self.state.name} cannot be {to.name}")
        self.state = to

    def request_cancel(self, reason: Cancelled) -> None:
        """From now on no statement starts, and no COMMIT is sent. The first reason stays."""
        if self.reason is None:  # else a cancel may be on its way, which has the lock while it lasts
            with self._lock:
                if self.reason is None:
                    self.reason = reason
                    if self.state is _OPEN:
                        self._move(UnitState.CANCELLED)

    def abandon(self) -> None:
        """Note that the unit has no waiter any more, and its pool may be gone.

        Its connection is closed, not checked in. Nothing is kept but by a COMMIT that is on its way.
        """
        self.abandoned = True
        self.request_cancel(Cancelled(f"{self.label}: was abandoned; nothing is kept"))

    def enter(self) -> Outer:
        """The calling thread or greenlet may send statements until `leave`, which is given the result."""
        # Model code of one database may open a `session_scope` of another: that one's guard is the inner.
        worker = self._backend.worker()
        outer, _at_work[worker] = _at_work.get(worker), self
        if self._confined:
            self._worker = worker
        return worker, outer

    def leave(self, entered: Outer) -> None:
        """Forbid further statements; waits for a cancel under way, so that it hits nothing else."""
        worker, outer = entered
        if outer is None:
            _at_work.pop(worker, None)
        else:
            _at_work[worker] = outer
        with self._lock:
            if self._confined:
                self._worker = None

    def check(self) -> None:
        """Raise where a statement must not be sent now.

        Raises:
            Cancelled: the unit was stopped.
            OutsideRun: the caller is not the piece of work that runs for this unit.
        """
        if self.reason is not None:
            raise self.reason
        if self._worker != _ANY_WORKER and self._worker != self._backend.worker():
            raise OutsideRun(
                f"{self.label}: SQL was sent from outside `run` and would have stopped the event loop; "
                "write `await self.run(function, self.session, …)`, and load inside that function what the "
                "answer needs (an attribute that loads lazily sends SQL too)"
            )
        if self.state is _COMMITTING or self.state is _COMMITTED:
            raise SessionSettled(
                f"{self.label}: SQL was sent after COMMIT; `self.in_new_transaction(…)` is for that"
            )
        if self.deadline_at is not None and time.monotonic() >= self.deadline_at:
            self.request_cancel(DeadlinePassed())
            raise DeadlinePassed

    def check_effect(self, effect: int) -> None:
        """Raise where a statement has an effect that it must not have; note that it changes the session.

        Raises:
            SessionNotOwned: it would end the transaction.
            UsageError: it would change a session that cannot be closed afterwards.
        """
        if effect & ENDS_TRANSACTION:
            raise SessionNotOwned(
                f"{self.label}: a statement was refused that ends or begins a transaction, which the unit of "
                "work alone does. Raise an error to undo the work, guard a part with "
                "`session.begin_nested()`; `await self.commit()` in a handler settles early"
            )
        if effect & CHANGES_SESSION:
            if self._backend.cannot_change_session:
                raise UsageError(
                    f"{self.label}: a statement was refused that changes the session of its connection "
                    f"{self._backend.cannot_change_session}"
                )
            self.changed_session = True

    def check_isolation(self, level: object, *, is_settable: bool) -> None:
        """Raise where another isolation level is asked for than the unit may have.

        Raises:
            SessionNotOwned: AUTOCOMMIT, of which nothing could be undone; any, where it would outlast the
                unit; any other than the one that the unit was made with.
        """
        own = self.isolation_level
        if level == own or (is_settable and own is None and str(level).upper() != "AUTOCOMMIT"):
            return
        raise SessionNotOwned(
            f"{self.label}: the isolation level {level!r} was asked for, which would take its transaction "
            "from the unit of work. A unit of work has its level from the start: `isolation = …` is one of "
            f"{', '.join(self._backend.isolation_levels)}. For reads of one state of the database there is "
            "`snapshot = True`"
        )

    # -- called by the engine's hooks, where the work is done

    def checked_out(self, connection: Any) -> None:
        """The unit has taken this connection of the driver."""
        with self._lock:
            self._connection = connection

    def connecting(self, connection: Any) -> None:
        """A connection is asked something before it is checked out: the session's, unless that has one.

        Else it is one that a function opens beside its session's, which is none of the unit's.
        """
        with self._lock:
            if self._connection is None:
                self._connection = connection

    def checked_in(self, connection: Any) -> None:
        """The connection goes back to the pool, or is closed: from now on no cancel reaches it."""
        with self._lock:
            if self._connection is connection:
                if self.began and self._knows_its_transaction:  # it goes along, and no ROLLBACK tells of it
                    self._has_ended()
                    self.was_rolled_back = True
                self._connection = None

    def commit_begins(self) -> None:
        """COMMIT is about to be sent: the last moment for a second look.

        Raises:
            Cancelled: the unit was stopped; COMMIT is not sent.
            TransactionAborted: there is no transaction left that could be committed.
            TransactionEnded: it is not the one that was begun.
            SessionNotOwned: it is not the unit of work that commits.
        """
        if not self.may_commit:
            raise SessionNotOwned(
                f"{self.label}: code other than its unit of work tried to commit its transaction"
            )
        self.check_transaction()
        with self._lock:
            if self.reason is not None:
                raise self.reason
            self._move(_COMMITTING)

    def commit_ended(self) -> None:
        """COMMIT was sent, and has succeeded."""
        self.move(_COMMITTED)

    def check_transaction(self) -> None:
        """Raise where the transaction must not, or cannot, be committed; as `commit_begins` does."""
        if self.reason is None and self.seconds_left() == 0:
            self.request_cancel(DeadlinePassed())
        if self.reason is not None:
            raise self.reason
        self._look_back()
        self.check_same_transaction()
        if self.was_rolled_back or self._connection is None:
            raise self.lost()
        if self.met_error or not self._backend.asks_whether_lost:
            if self._backend.transaction_is_lost(self._connection):
                raise self.lost()
            self.met_error = False

    def lost(self) -> TransactionAborted:
        """The error for a transaction that was aborted unnoticed by the program."""
        if self.ended:
            return self.ended_error()
        return TransactionAborted(
            f"{self.label}: the transaction had been aborted after an error that the program caught; nothing "
            "is kept. Let the error travel, or guard the statement with `session.begin_nested()`"
        )

    def check_same_transaction(self) -> None:
        """Raise where another than the unit of work has ended its transaction, or SQLite by itself.

        Asked before each statement: what comes after would be kept without what came before.
        """
        connection = self._connection
        if not self.began or not (self.ended or connection is None or self._backend.is_idle(connection)):
            return
        if self._has_ended():
            raise self.ended_error()
        if self.was_rolled_back:
            raise self.lost()

    def ended_error(self) -> TransactionEnded:
        """The error for a transaction that another than its unit of work has ended."""
        return TransactionEnded(
            f"{self.label}: {self.ended} ended the transaction, which its unit of work alone may end; what "
            "came before it is kept or undone already. Guard a part with `session.begin_nested()`; "
            "`await self.commit()` in a handler settles early"
        )

    def rolled_back(self) -> None:
        """The transaction was rolled back: by its unit of work, or there is nothing left to keep."""
        if self.state not in SETTLED:
            self._look_back()
            self.was_rolled_back = True

    def release_begins(self, decision: UnitState) -> None:
        """The connection is about to be rolled back: there is nothing left to cancel.

        Args:
            decision: what the unit is from now on, if it was neither cancelled nor at its COMMIT.
        """
        self._look_back()
        with self._lock:
            if self.state not in SETTLED:
                if self.ended or self.state is _COMMITTING:
                    decision = UnitState.IN_DOUBT
                elif self.state is UnitState.CANCELLED:
                    decision = UnitState.ROLLED_BACK
                self._move(decision)

    def hand_over(self, connection: Connection) -> None:
        """The program takes the driver's connection, where what it does is not seen: mark the transaction.

        Costs round trips, here and at the end, to the units alone whose program does so.

        Raises:
            DBAPIError: the transaction has failed already, or the connection.
        """
        if self.marked is None and self._knows_its_transaction:
            self.marked = self._backend.mark_transaction(connection)
            self.began = True

    @property
    def _knows_its_transaction(self) -> bool:
        # After a rollback or an interrupt the database may have ended it, and has undone all of it.
        return (
            self._connection is not None
            and self.state in UNSETTLED
            and not (self.was_rolled_back or self.cancelled)
        )

    def _has_ended(self) -> bool:
        """Whether another than the unit of work has ended its transaction, as the driver knows by itself."""
        if self.began and self._knows_its_transaction and self._backend.is_idle(self._connection):
            self._note_end()
        return bool(self.ended)

    def _look_back(self) -> None:
        """As `_has_ended`, before the transaction ends; another that was begun since is noticed as well."""
        marked, self.marked = self.marked, None
        if self._has_ended() or marked is None or not self._knows_its_transaction:
            return
        try:
            is_marked = self._backend.is_marked(self._connection, marked)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  # the connection is checked in all the same
            is_marked = False
        if not is_marked:
            self._note_end()

    def _note_end(self) -> None:
        self.ended = self.ended or "a call of the driver, or a procedure,"
        self.changed_session = True  # AUTOCOMMIT, say, would be the next user's

    # -- called to stop the unit; a driver that blocks may take a second for it

    def cancel_statement(self) -> bool | Awaitable[bool] | None:
        """Have the database cancel the running statement. Does nothing to a COMMIT, or between statements.

        Returns:
            Whether there is something to wait for: not if the database could not be reached for it. An
            asyncio driver reports it later, or never: then it cancels what its cancelled task runs.
        """
        with self._lock:
            if self._connection is None or self._worker is None or self.state not in UNSETTLED:
                return True
            self._has_ended()  # afterwards there is no telling: SQLite rolls back what it interrupts
            self.cancelled = True
            return self._backend.cancel_statement(self._connection)

    def shutdown_socket(self) -> bool:
        """Shut the connection's socket down, which wakes the work that waits for its answer. Does not wait.

        Returns:
            Whether that is done, or needless; False where a cancel of the same connection is on its way.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._connection is not None and self._worker is not None:
                self.cancelled = True
                if self.state is _COMMITTING:
                    self.left_pid = self._backend.server_pid(self._connection)
                self._backend.shutdown_socket(self._connection)
        finally:
            self._lock.release()
        return True


def guard_of(connection: Connection) -> StatementGuard | None:
    """The guard of the unit of work that uses this connection, None for work of the engine's own."""
    guard: StatementGuard | None = connection.get_execution_options().get(OPTION)
    return guard


def guard_at_work(backend: Backend) -> StatementGuard | None:
    """The guard of the unit of work that the calling thread or greenlet works for.

    Args:
        backend: of the engine that asks: each `Database` has one of its own.

    Returns:
        None for any other, and for one that works for another database just now.
    """
    guard = _at_work.get(backend.worker())
    return guard if guard is not None and guard._backend is backend else None
