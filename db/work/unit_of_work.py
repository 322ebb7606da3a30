"""One session and the decision about its work."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.util import EMPTY_DICT

from conf.redaction import code_of
from db.backend import Backend
from db.blocking import off_loop
from db.errors import (
    Cancelled,
    Conflict,
    ConnectionLost,
    DatabaseError,
    NotInSchema,
    NotMigrated,
    NotReplicated,
    OutcomeUnknown,
    ReadOnlyViolation,
    SessionSettled,
    Unavailable,
    UsageError,
)
from db.guard import StatementGuard
from db.outcome import Outcome
from db.state import OUTCOMES, SETTLED, UnitState
from db.work.commit_marker import CommitMarker, CommitMarkers, refusal_of
from db.work.session import PLAIN, SessionMaker, SettledSession
from db.written import Written

log = logging.getLogger("onfinish.db")

R = TypeVar("R")


class UnitOfWork:
    """One session and the decision about its work, made exactly once.

    Lives as long as one request or one job; its maker settles it, or leaves it as a context manager. Rolled
    back unless ``settle(keep=True)`` is reached and succeeds. Not for two threads or tasks at once.

    Args:
        engine: the writer or the reader.
        backend: that engine's backend.
        label: how messages name this unit: "POST TaskHandler".
        read_only: it runs on the reader; keeping it commits nothing.
        snapshot: all its reads see the database as it was at the first of them.
        isolation: its transaction's isolation level, one of the backend's `isolation_levels`; a unit on the
            reader has a transaction then. The connection is at the engine's level again afterwards.
        deadline_at: on the clock of `time.monotonic`; None for no limit.
        confined: statements only inside of `call` (a request), or anywhere (a script).
        commit_markers: asked whether a COMMIT without an answer was applied.
        schema_fault: returns what is wrong with the schema, None where nothing is; may block. Called where a
            statement names a table or a column that is not there.
        retries: as of `StatementGuard`.
        sessions: makes its session.

    Raises:
        UsageError: there is no such isolation level on this database, or not with ``snapshot``.

    Warns:
        ResourceWarning: dropped without `settle`; its connection was checked in, rolled back.
    """

    observed: object = None
    """The observer's own note."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        *,
        label: str,
        read_only: bool = False,
        snapshot: bool = False,
        isolation: str | None = None,
        deadline_at: float | None = None,
        confined: bool = False,
        commit_markers: CommitMarkers | None = None,
        schema_fault: Callable[[], str | None] | None = None,
        retries: bool = False,
        sessions: SessionMaker = PLAIN,
    ) -> None:
        self.read_only = read_only
        self.opened_at = time.monotonic()
        self.commit_s = 0.0
        self._backend = backend
        options: Mapping[str, Any] = EMPTY_DICT
        if snapshot or isolation is not None:
            options = backend.transaction_options(label, isolation=isolation, snapshot=snapshot)
        self._autocommits = read_only and backend.reader_autocommits and not options
        self._commit_markers = None if read_only else commit_markers
        self._schema_fault = schema_fault
        self._marker: CommitMarker | None = None
        self.guard = StatementGuard(
            label,
            backend,
            deadline_at=deadline_at,
            confined=confined,
            isolation_level=options.get("isolation_level"),
            retries=retries,
        )
        self.session: Session = sessions.make(engine, self.guard, options)

    def __del__(self) -> None:
        guard = getattr(self, "guard", None)
        if guard is not None and guard.state not in SETTLED:
            message = f"{self.label}: a unit of work was dropped unsettled"
            warnings.warn(message, ResourceWarning, stacklevel=1, source=self)

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.guard.label

    @property
    def state(self) -> UnitState:
        """Where it is; see `db.state` for what may follow."""
        return self.guard.state

    @property
    def settled(self) -> bool:
        """Whether the decision is made."""
        return self.guard.state in SETTLED

    @property
    def outcome(self) -> Outcome:
        """What has become of the work."""
        guard = self.guard
        if guard.ended and guard.state is UnitState.CANCELLED:
            return Outcome.UNKNOWN  # it was abandoned, and other code had ended its transaction before
        return OUTCOMES[guard.state]

    @property
    def pool(self) -> str:
        """Whose connections it uses: "writer" or "reader"."""
        return "reader" if self.read_only else "writer"

    @property
    def written(self) -> Written | None:
        """The transaction that it has committed, if it has written and there are commit markers."""
        if self._marker is None or self.guard.state is not UnitState.COMMITTED:
            return None
        return self._marker.written

    @property
    def has_connection(self) -> bool:
        """Whether it holds a connection at this moment."""
        return self.guard.has_connection

    @property
    def statement(self) -> str | None:
        """The SQL that it sent last, without parameters."""
        return self.guard.statement

    @property
    def in_use(self) -> bool:
        """Whether there is anything to settle: a transaction, or changes that wait for a flush."""
        return self.session.in_transaction() or self._has_changes

    @property
    def settles_at_once(self) -> bool:
        """Whether settling sends nothing to the database, and may be done on an event loop."""
        if not self.in_use:
            return not self.guard.was_rolled_back
        return (
            self._autocommits
            and self._backend.reader_settles_at_once
            and not (self.guard.cancelled or self.guard.changed_session)
            and not self._has_changes
        )

    @property
    def _has_changes(self) -> bool:
        session = self.session
        # `session.dirty` makes a set of what it looks through; this asks whether there is anything in it.
        return bool(session.new or session.identity_map.check_modified() or session.deleted)

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function that works with the session, in a thread that may wait.

        Raises:
            DatabaseError: a driver's error, translated. The unit can only be undone then, except
                where the function guarded the statement with a savepoint.
            UsageError: it was an async function.
            BaseException: whatever else the function raises.
        """
        guard = self.guard
        entered = guard.enter()
        try:
            return call_plain(guard.label, function, *args, **kwargs)
        except (DBAPIError, StaleDataError) as error:
            raise self.translated(error) from error
        except asyncio.CancelledError as error:  # how asyncio drivers end a statement
            raise self._cancelled() from error
        finally:
            guard.leave(entered)

    def sees(self, written: Sequence[Written], *, decides: bool = False) -> bool:
        """Whether transactions are there, in what the session reads next; asked over its connection.

        If not, the session has no transaction afterwards, so that the next one sees what has come since.

        Args:
            decides: it is the primary that is asked, and what is missing there is lost.

        Raises:
            Unavailable: it is none any more.
        """
        connection = self.session.connection()
        found = self._backend.read_markers(connection, [each.row for each in written])
        if all(each.is_in(found.get(each.row)) for each in written):
            return True
        if decides and self._backend.is_standby(connection):
            self.guard.changed_session = True  # the next connection may lead to the one that is
            raise Unavailable("the database takes no writes at the moment", retry_after_s=5)
        Session.rollback(self.session)
        self.guard.begin_anew()
        return False

    def read_from(self, engine: Engine, backend: Backend) -> None:
        """From now on read from the writer's server; the session has no transaction at the moment."""
        self.session.bind = engine
        self.session.execution_options = self.session.execution_options.union(backend.read_only_options)
        self._backend, self._autocommits = backend, False
        self.guard.use(backend)

    def prepare(self, last: Callable[[Session], object] | None) -> None:
        """Call a function with the session, and flush it: all that precedes COMMIT."""
        if last is not None:
            call_plain(self.label, last, self.session)
        self.session.flush()
        if not self.read_only and self.session.in_transaction():
            self.guard.check_transaction()

    def _cancelled(self) -> Cancelled:
        return self.guard.reason or Cancelled(f"{self.label}: was cancelled; nothing is kept")

    def settle(self, *, keep: bool, last: Callable[[Session], object] | None = None) -> None:
        """Commit or roll back, then close: in that order whatever happens. The session is unusable then.

        A session closed without a rollback after a COMMIT that failed would leave the failed work in the
        connection, for its next user to commit.

        Args:
            keep: commit.
            last: called with the session before COMMIT, where there is one; what it raises undoes the work.

        Raises:
            DatabaseError: the work could not be kept; `outcome` shows whether that is certain.
            TransactionEnded: also where it was not to be kept: a part of it may be.
            SessionSettled: this was done before.
        """
        if self.settled:
            raise SessionSettled(f"{self.label}: the unit of work is settled already ({self.outcome.value})")
        doubt: OutcomeUnknown | None = None
        entered = self.guard.enter()
        try:
            self._decide(keep, last)
        except OutcomeUnknown as error:
            doubt = error
        finally:
            self.guard.leave(entered)
        if doubt is not None:
            self._resolve(doubt)
        elif self.guard.ended:
            raise self.guard.ended_error()

    def __enter__(self) -> Self:
        self._entered = self.guard.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Settle: keep the work, or undo it where the block raised. A driver's error is raised translated."""
        try:
            self.settle(keep=kind is None)
        finally:
            self.guard.leave(self._entered)
        if isinstance(error, DBAPIError | StaleDataError):
            raise self.translated(error) from error

    def settle_at_once(self, *, keep: bool) -> None:
        """As `settle`, on the event loop, where `settles_at_once` means that nothing is sent."""
        self._decide(keep, None)

    def _decide(self, keep: bool, last: Callable[[Session], object] | None) -> None:
        decision = UnitState.ROLLED_BACK
        try:
            if keep:
                self._keep(last)
                decision = UnitState.READ if self.read_only else UnitState.COMMITTED
        finally:
            self._release(decision)

    def _keep(self, last: Callable[[Session], object] | None) -> None:
        session, guard = self.session, self.guard
        try:
            if last is not None:
                call_plain(guard.label, last, session)
            session.flush()
            if guard.reason is not None:
                raise guard.reason
            if guard.was_rolled_back and not self.read_only:
                raise guard.lost()
            if not self.read_only and session.in_transaction():
                if self._commit_markers is not None:
                    guard.check_transaction()
                    self._marker = self._commit_markers.write(session, self._backend)
                began = time.perf_counter()
                try:
                    self._commit()
                finally:
                    self.commit_s = time.perf_counter() - began
                    if self._marker is not None and guard.state is UnitState.COMMITTED:
                        self._marker.was_written()
        except asyncio.CancelledError as error:
            if guard.state is UnitState.COMMITTING:
                raise OutcomeUnknown from error
            raise self._cancelled() from error
        except PendingRollbackError as error:  # a flush failed, and the program went on
            raise guard.lost() from error
        except StaleDataError as error:
            raise self.translated(error) from error
        except DBAPIError as error:
            if guard.state is UnitState.COMMITTING:
                if self._backend.commit_may_have_been_applied(error):
                    raise OutcomeUnknown from error
                guard.move(UnitState.ROLLED_BACK)  # the database refused it
            if self._backend.says_transaction_is_lost(error):
                raise guard.lost() from error
            row = None if self._marker is None else self._marker.row
            if row is not None and guard.marker_was_refused:
                raise refusal_of(error, self._backend, row) or self.translated(error) from error
            raise self.translated(error) from error

    def _commit(self) -> None:
        # Not before: a function before the commit is the program's, and so is a hook of the session's.
        if self.session.dispatch.before_commit:
            event.listen(self.session, "before_commit", self._hooks_are_past)  # the last of them
        else:
            self.guard.may_commit = True
        try:
            Session.commit(self.session)
        except BaseException as error:
            if self.guard.state is UnitState.COMMITTED:
                # It comes from a hook of the session behind COMMIT, too late to undo anything.
                log.exception("%s: a hook after the commit failed; the work is kept", self.label)
                if isinstance(error, SystemExit | KeyboardInterrupt):  # in a script they are the caller's
                    raise
                return
            if isinstance(error, NotReplicated):
                raise
            is_drivers = isinstance(error, DBAPIError) or not isinstance(error, Exception)
            if self.guard.state is UnitState.COMMITTING and not is_drivers:
                raise OutcomeUnknown from error
            raise

    def _hooks_are_past(self, session: Session) -> None:
        self.guard.may_commit = True

    def _resolve(self, doubt: OutcomeUnknown) -> None:
        """Ask what became of a COMMIT that was sent and not answered."""
        if isinstance(doubt, NotReplicated):
            raise doubt
        committed = None
        if self._commit_markers is not None and self._marker is not None:
            with contextlib.suppress(Unavailable):  # there is no thread for it: it stays unknown
                committed = off_loop(
                    self._commit_markers.was_committed, self._marker, deadline_at=self.guard.deadline_at
                )
        if committed is None:
            raise doubt
        log.warning(
            "%s: the connection was lost during COMMIT, which was %s",
            self.label,
            "applied, as its commit marker shows" if committed else "not applied",
        )
        self.guard.move(UnitState.COMMITTED if committed else UnitState.ROLLED_BACK)
        if not committed:
            raise ConnectionLost from doubt

    def _release(self, decision: UnitState) -> None:
        """Release the connection, rolled back; or discard it where that cannot be done."""
        session = self.session
        self.guard.release_begins(decision)
        try:
            if not self._is_discarded and not self._autocommits:
                Session.rollback(session)
            if self._is_discarded:
                Session.invalidate(session)
            else:
                Session.close(session)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # it is of no use now
            log.warning(
                "%s: a connection was thrown away, it could not be rolled back (%s)",
                self.label,
                code_of(error),
            )
            Session.invalidate(session)
        finally:
            session.execution_options = EMPTY_DICT  # releases the guard
            session.__class__ = SettledSession
            session.__dict__["label"] = self.label

    @property
    def _is_discarded(self) -> bool:
        guard = self.guard
        if guard.state is UnitState.IN_DOUBT and self._marker is not None and self._marker.row is not None:
            return True  # the number of the connection's next transaction is not known
        return guard.abandoned or (guard.cancelled and self._backend.discard_after_interrupt)

    def translated(self, error: DBAPIError | StaleDataError) -> DatabaseError:
        """What an error of the driver's means for this unit of work, or of the mapper's that counts rows."""
        if isinstance(error, StaleDataError):
            return Conflict("the row has been changed or deleted since it was read")
        reason = self.guard.reason
        if reason is not None and self.guard.cancelled:
            return reason
        if self.read_only and self._backend.refuses_write(error):
            return ReadOnlyViolation(
                f"{self.label}: a write in a read-only unit of work was refused by the database. GET and "
                "HEAD work on the reader: write in a POST, PUT, PATCH or DELETE, in "
                "`self.in_new_transaction(…)`, or set `read_only = False` on the handler"
            )
        told = self._backend.translate(error)
        if isinstance(told, NotInSchema) and self._schema_fault is not None:
            fault = off_loop(self._schema_fault)
            if fault is not None:
                return NotMigrated(fault)
        return told


def call_plain(label: str, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Call a function that works with a session, and return its result.

    Args:
        label: how messages name the unit of work.

    Raises:
        UsageError: it was an async function, which has not run.
    """
    result = function(*args, **kwargs)
    if not inspect.iscoroutine(result):
        return result
    result.close()  # it would never run
    raise UsageError(
        f"{label}: {name_of(function)} is an async function; what works with the session is a plain "
        "one, called in a thread"
    )


def name_of(function: object) -> str:
    """How messages name a function."""
    return str(getattr(function, "__qualname__", function))
