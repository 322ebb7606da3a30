"""Whether a COMMIT was applied whose answer never came."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, String, delete, literal
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, Session, mapped_column

from conf import DatabaseSettings
from conf.program import COMMAND
from db.backend import Backend, MarkerRow
from db.backends.choose import backend_for
from db.base import KernelBase, UtcDateTime, now
from db.engines.beside import engine_beside
from db.engines.engine import blocking, make_url
from db.errors import ConnectionLost, DatabaseError, NotGranted
from db.guard import guard_of
from db.observer import Observer
from db.written import MARK_CHARS, Written, marker_text

log = logging.getLogger("onfinish.db")

_KEPT_FOR = timedelta(days=1)

_ASK_AGAIN_S = 0.2
"""A database that restarts, or fails over, is asked again until there is no time left."""

_UNLIMITED_S = 30.0
"""How long a unit of work without a deadline asks."""

_LATE_S = 0.5
"""How long is asked where the deadline has passed already: COMMIT was what did not answer."""


class CommitMarkerRow(KernelBase):
    """A row of ``commit_witness``: the last transaction that a connection committed.

    Each connection of the writer has one row, and writes it over as the last statement of a
    transaction that wrote anything. It is locked until that transaction has ended, so a reader
    waits for the end, and then reads how it ended. One row a connection, and not one a transaction:
    nothing piles up, and the update touches no index.
    """

    __tablename__ = "commit_witness"

    connection: Mapped[str] = mapped_column(String(32), primary_key=True)
    transaction: Mapped[str] = mapped_column(String(32))
    update_time: Mapped[datetime] = mapped_column(UtcDateTime, server_default=now())


def delete_old_markers(session: Session) -> int:
    """Delete the rows of connections that are gone: those not written for a day.

    A connection that is still there writes its row anew. No COMMIT of yesterday is in doubt.

    Returns:
        How many were deleted.
    """
    old = CommitMarkerRow.update_time < now() - literal(_KEPT_FOR)  # by the clock that it was written by
    result: Any = session.execute(delete(CommitMarkerRow).where(old))
    return int(result.rowcount)


class CommitMarker(NamedTuple):
    """How to look at a row that a transaction has written, and what is in it if that was committed."""

    mark: str
    ask: Callable[[Connection], str | None]
    """Reads the row, in a transaction of its own, once the transaction that writes it has ended."""

    row: MarkerRow | None = None
    """The connection's own, where it is the one."""

    number: int = 0
    """The transaction's, among those of that row."""

    goes_with_commit: bool = False
    """Whether it was written is known by COMMIT's own answer alone."""

    def was_written(self) -> None:
        """COMMIT has succeeded: the next transaction of the connection has the next number."""
        if self.row is not None:
            self.row.number = self.number

    @property
    def written(self) -> Written | None:
        """The transaction, once it is committed, as tokens have it."""
        return None if self.row is None else Written(self.row.name, self.number, time.time())


def refusal_of(error: DBAPIError, backend: Backend, row: MarkerRow) -> DatabaseError | None:
    """What it means that a marker was refused; None for any other error."""
    if backend.marker_does_not_follow(error):
        log.warning(
            "the database has lost a transaction that it had answered as committed: a failover, or a restore"
        )
        return ConnectionLost()
    code = backend.code_of_missing_right(error)
    return None if code is None else NotGranted(code, row.table)


NOTHING_WRITTEN = CommitMarker("", lambda connection: None)
"""Of a transaction that wrote nothing here: whether it was committed makes no difference, unless it may have
written elsewhere, through a foreign table. No row shows how that ended."""

_OWN_MARKER = "onfinish_marker"


def use_marker(session: Session, marker: CommitMarker) -> None:
    """Have a row that the transaction writes in any case be its commit marker, and save the marker's own.

    Not for a row that is written inside a savepoint: rolled back with it, it would mean "not committed".
    """
    session.info[_OWN_MARKER] = marker


class CommitMarkers:
    """Writes commit markers and reads them. Lives as long as its Database, which closes it.

    The errors of a COMMIT that the server never got and of one whose answer was lost are the same,
    and transaction ids are used again after a crash; a row that the transaction itself wrote is not
    to be mistaken.

    Args:
        settings: where the database is.
        writer: the engine whose transactions write markers, and that decides what to connect with.
        always: a row that a transaction has written in any case does not do: a token names a connection's.
    """

    def __init__(self, settings: DatabaseSettings, writer: Engine, *, always: bool = False) -> None:
        self.observer = Observer()
        """Told what each marker showed."""

        self._always = always
        self._settings = blocking(settings)
        self._writer = writer
        self._backend = backend_for(make_url(self._settings), settings.pooler)
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._is_told = False

    def write(self, session: Session, backend: Backend) -> CommitMarker | None:
        """Write this transaction's marker, the last thing before COMMIT; or have COMMIT take it along.

        That is done where the transaction is known to have written here: only of any other must the marker's
        own answer show whether it has.

        Returns:
            None where this database has no table for it; `NOTHING_WRITTEN` where nothing was written here.

        Raises:
            NotGranted: the transaction goes on as a role that may not write that table.
        """
        own: CommitMarker | None = session.info.get(_OWN_MARKER)
        if own is not None and not self._always:
            return own
        connection = session.connection()
        row: MarkerRow | None = connection.info.get(backend.marker_key)
        if row is None:
            self._tell_that_there_is_no_table()
            return own
        mark, number = os.urandom(MARK_CHARS // 2).hex(), row.number + 1
        text = marker_text(number, mark)
        marker = CommitMarker(mark, functools.partial(self._mark_of, row), row, number)
        guard = guard_of(connection)
        if row.before_commit and guard is not None and guard.has_written and not guard.changed_session:
            guard.marker = text.join(row.before_commit)
            return marker._replace(goes_with_commit=True)
        try:
            written = connection.exec_driver_sql(row.sql, backend.marker_parameters(row.name, text))
        except DBAPIError as error:
            fault = refusal_of(error, backend, row)
            if fault is None:
                raise
            if guard is not None and isinstance(fault, ConnectionLost):
                guard.changed_session = True  # its row is behind for good
            raise fault from error
        return marker if written.rowcount else NOTHING_WRITTEN

    def _mark_of(self, row: MarkerRow, connection: Connection) -> str:
        return self._backend.ask_marker(connection, row)[-MARK_CHARS:]

    def was_committed(self, marker: CommitMarker, *, deadline_at: float | None) -> bool | None:
        """Ask, over a connection of its own, waiting for a transaction that is still in flight.

        Returns:
            None where the database could not be asked in time.
        """
        committed = self._was_committed(marker, deadline_at)
        answers = {True: "committed", False: "not committed", None: "none"}
        self.observer.marker_asked(answers[committed])
        return committed

    def _was_committed(self, marker: CommitMarker, deadline_at: float | None) -> bool | None:
        now_ = time.monotonic()
        give_up_at = now_ + _UNLIMITED_S if deadline_at is None else max(deadline_at, now_ + _LATE_S)
        while (left_s := give_up_at - time.monotonic()) > 0:
            try:
                with self._own_engine().connect() as connection, self._cancelled_after(left_s, connection):
                    with connection.begin():
                        committed = self._ask(connection, marker, left_s)
                    # Where the answer itself is on no standby, what it says may not be either.
                    own = connection.connection.dbapi_connection
                    return None if self._backend.wait_was_cancelled(own) else committed
            except Exception as error:  # noqa: BLE001  # whatever it is, the outcome is not known by it
                kind = type(getattr(error, "orig", error)).__name__
                log.info("the commit marker cannot be read yet: %s", kind)
                time.sleep(min(_ASK_AGAIN_S, max(0.0, give_up_at - time.monotonic())))
        return None

    def _ask(self, connection: Connection, marker: CommitMarker, left_s: float) -> bool | None:
        self._backend.limit_statements(connection, left_s)
        if marker is NOTHING_WRITTEN:
            return None if self._backend.writes_unseen(connection) else True
        if marker.ask(connection) == marker.mark:
            return True
        # Rows of a foreign table that has come since the connection was made leave none here.
        if marker.row is None or not marker.goes_with_commit:
            return False
        self._backend.refuse_marker(connection, marker.row)
        return None if self._backend.writes_unseen(connection) else False

    @contextlib.contextmanager
    def _cancelled_after(self, left_s: float, connection: Connection) -> Iterator[None]:
        # A COMMIT that waits for a synchronous standby is under no time limit of the server's.
        own = connection.connection.dbapi_connection
        timer = threading.Timer(left_s, self._backend.cancel_statement, [own])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # a late cancel would meet a closed connection

    def close(self) -> None:
        """Dispose of the engine."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _tell_that_there_is_no_table(self) -> None:
        if not self._is_told:
            self._is_told = True
            log.warning(
                "the database has no table %s: a COMMIT whose answer is lost will be unknown: "
                "run `%s migrate --to kernel`, or set database.commit_witness = false",
                CommitMarkerRow.__tablename__,
                COMMAND,
            )

    def _own_engine(self) -> Engine:
        # Without a pool: the writer's may be full of connections as dead as the one in doubt.
        with self._lock:
            if self._engine is None:
                self._engine = engine_beside(self._settings, "migration", self._backend, self._writer)
            return self._engine
