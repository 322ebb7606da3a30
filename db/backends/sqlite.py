"""SQLite made safe: transactions of our own, one writer at a time, readers that cannot write."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, StaticPool

from conf import DatabaseSettings
from db.backend import Backend, ExecutorName, Role
from db.backends.effects import SQLITE
from db.blocking import pause
from db.constraints import refused_by, table_of
from db.errors import (
    DatabaseError,
    DeadlinePassed,
    NotInSchema,
    RetryableConflict,
    StatementFailed,
    Unavailable,
    Unreachable,
)
from db.guard import ENDS_TRANSACTION, OWN, guard_of

READ_ONLY = "onfinish_read_only"
"""Execution option of the in-memory database's reader, which is the writer's engine under another name."""

SNAPSHOT = "onfinish_snapshot"
"""Execution option under which the reader begins a transaction, which keeps it at one state of the file."""

_CURSORS = "onfinish_cursors"
"""Where a connection's record has the cursors that may be open."""

_POLL_S = 0.05
"""How long SQLite itself waits for a lock before we look whether the unit of work was stopped meanwhile."""

_CLOSED = (sqlite3.ProgrammingError, ValueError)
"""What a connection that was closed raises for every question, and aiosqlite's."""

_SERVED_FROM_MEMORY = (None, "", ":memory:")


class SQLite(Backend):
    """SQLite, through the standard library's driver or aiosqlite."""

    drivers = ("pysqlite", "aiosqlite")
    blocking_driver = "sqlite+pysqlite"
    belongs_to_process = True
    snapshot_options = MappingProxyType({SNAPSHOT: True})
    isolation_levels = ("SERIALIZABLE",)
    lock_wait = (__name__, "_begin_immediate")

    def __init__(self, url: URL, executor: ExecutorName = "auto") -> None:
        super().__init__(url, executor)
        name = url.database
        if url.get_driver_name() == "aiosqlite":
            self._wait_in_greenlets()
        # aiosqlite's rollback is awaited, whether or not there is anything to roll back.
        self.reader_settles_at_once = not self.is_async
        self.shares_one_connection = name in _SERVED_FROM_MEMORY or (
            str(name).startswith("file:") and (":memory:" in str(name) or url.query.get("mode") == "memory")
        )
        if name and not self.shares_one_connection and not name.startswith("file:"):
            self.file = Path(name).absolute()
        if self.shares_one_connection:
            self.cannot_change_session = (
                "of a database in memory, which has no other and cannot close it: use a file"
            )
        if self.is_async and self.shares_one_connection:
            raise ValueError(
                "sqlite+aiosqlite in memory is not supported: jobs and migrations would not see it; use "
                "sqlite://, or a file"
            )
        # A cursor that was interrupted half-way stays open, and no rollback gets past it. In memory the
        # connection is the database.
        self.reader_autocommits = not self.shares_one_connection
        self.discard_after_interrupt = not self.shares_one_connection

    def own_query(self, query: Mapping[str, Any]) -> Mapping[str, Any]:
        # Production's sslmode is for a server: there is no TLS to a file.
        return {name: value for name, value in query.items() if not name.startswith("ssl")}

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        # A call may run on another thread than the last one; the limiter sees to it that no two do at once.
        return {"check_same_thread": False, "timeout": self._busy_timeout_s(settings)} | settings.connect_args

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        if self.shares_one_connection:
            return {"poolclass": StaticPool}
        if role == "migration":
            return {"poolclass": NullPool}
        options: dict[str, Any] = {}
        if role == "reader":
            options["isolation_level"] = "AUTOCOMMIT"
        return options

    def pool_size(self, settings: DatabaseSettings, role: Role) -> tuple[int, int]:
        # SQLite takes one writer at a time and lets the others poll, unfairly: they queue with us instead.
        if role == "writer" or self.shares_one_connection:
            return 1, 0
        return super().pool_size(settings, role)

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        @event.listens_for(engine, "connect")
        def prepare_connection(connection: Any, record: object) -> None:
            # The driver's own transactions break savepoints and let DDL escape a rollback.
            connection.isolation_level = None
            # WAL is a property of the file: readers do not block the writer, nor it them.
            if not self.shares_one_connection:
                _use_wal(connection, give_up_at=time.monotonic() + self._busy_timeout_s(settings))
            # Alembic's batch mode rebuilds tables, which live foreign keys would turn into deletes.
            connection.execute(f"PRAGMA foreign_keys = {'OFF' if role == 'migration' else 'ON'}")
            if role == "reader":
                connection.execute("PRAGMA query_only = ON")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if role == "reader":
                if connection.get_execution_options().get(SNAPSHOT):
                    connection.exec_driver_sql("BEGIN", execution_options={OWN: True})
                return
            if self.shares_one_connection:
                # Set at every beginning, so nothing depends on how the unit before this one ended.
                read_only = bool(connection.get_execution_options().get(READ_ONLY))
                query_only = f"PRAGMA query_only = {'ON' if read_only else 'OFF'}"
                connection.exec_driver_sql(query_only, execution_options={OWN: True})
                connection.exec_driver_sql("BEGIN", execution_options={OWN: True})
            else:
                _begin_immediate(connection, self._busy_timeout_s(settings))
            guard = guard_of(connection)
            if guard is not None:
                guard.began = True

        _end_statements_at_checkin(engine)
        if role == "reader":
            return

        @event.listens_for(engine, "handle_error")
        def note_rollback(context: ExceptionContext) -> None:
            # SQLite rolls back by itself for RAISE(ROLLBACK), a full disk and the like. Where the program
            # caught that error, each statement after it would be kept, alone.
            guard = None if context.connection is None else guard_of(context.connection)
            if guard is not None and guard.began and guard.has_connection:
                driver: Any = context.connection.connection.dbapi_connection  # type: ignore[union-attr]
                if self.is_idle(driver):
                    guard.was_rolled_back = True

    def _busy_timeout_s(self, settings: DatabaseSettings) -> float:
        # The driver's own name for it, in a URL ("?timeout=1") or among its arguments, wins over ours.
        given = settings.connect_args.get("timeout", self.url.query.get("timeout"))
        return settings.busy_timeout_s if given is None else float(str(given))

    def isolation_options(self, level: str) -> Mapping[str, Any]:
        return self.snapshot_options  # a transaction of SQLite's is serializable

    def translate(self, error: DBAPIError) -> DatabaseError:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None:
            return StatementFailed(type(error.orig).__name__)
        primary = code & 0xFF  # the extended codes carry their primary in the low byte
        name = str(getattr(error.orig, "sqlite_errorname", code))
        if primary == sqlite3.SQLITE_CONSTRAINT:
            is_fault = code in (sqlite3.SQLITE_CONSTRAINT_NOTNULL, sqlite3.SQLITE_CONSTRAINT_CHECK)
            return refused_by(
                _constraint_of(error.orig, code), table=table_of(error), fault=name if is_fault else None
            )
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return RetryableConflict("busy")
        if primary == sqlite3.SQLITE_INTERRUPT:
            return DeadlinePassed()
        if primary in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
        ):
            return Unreachable(f"the database file cannot be used at the moment ({name})")
        if primary == sqlite3.SQLITE_ERROR and _is_not_there(error.orig):
            return NotInSchema(name)
        return StatementFailed(name)

    def refuses_write(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY

    def commit_may_have_been_applied(self, error: DBAPIError) -> bool:
        # SQLite answers in the same process; only a failing disk leaves the question open.
        return bool(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR)

    def is_read_only(self, connection: Connection) -> bool:
        return bool(connection.exec_driver_sql("PRAGMA query_only").scalar())

    def effect_of(self, sql: str) -> int:
        return SQLITE.effect_of(sql)

    def is_idle(self, connection: Any) -> bool:
        try:
            return not _sqlite3_of(connection).in_transaction
        except _CLOSED:
            return False

    def mark_transaction(self, connection: Connection) -> object:
        seen: list[str] = []

        def note(sql: str) -> None:
            if not seen and SQLITE.effect_of(sql) & ENDS_TRANSACTION:
                seen.append(sql)

        _sqlite3_of(connection.connection.dbapi_connection).set_trace_callback(note)
        return seen

    def is_marked(self, connection: Any, mark: object) -> bool:
        with contextlib.suppress(*_CLOSED):
            _sqlite3_of(connection).set_trace_callback(None)
        return not mark

    def transaction_is_lost(self, connection: Any) -> bool:
        return not getattr(connection, "driver_connection", connection).in_transaction

    def cancel_statement(self, connection: Any) -> bool:
        _sqlite3_of(connection).interrupt()
        return True

    def shutdown_socket(self, connection: Any) -> None:
        _sqlite3_of(connection).interrupt()  # no socket; a statement that ignores this ends by itself


def _sqlite3_of(connection: Any) -> Any:
    """The connection whose `interrupt` may be called from anywhere. aiosqlite has a coroutine round it."""
    own = getattr(connection, "driver_connection", connection)
    return getattr(own, "_conn", own)


def _use_wal(connection: Any, *, give_up_at: float) -> None:
    """Switch the file to WAL. That asks for a lock and, unlike any other statement, does not wait for it."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= give_up_at:
                raise
            pause(_POLL_S)


def _end_statements_at_checkin(engine: Engine) -> None:
    """End what was read in part before the connection has its next user, or is closed.

    ROLLBACK leaves such a statement open, and its snapshot with it: the next user read what the file had held
    then, for as long as the cursor was referenced, by a traceback for one. A connection that was closed
    meanwhile kept the file's descriptors. https://www.sqlite.org/isolation.html, https://www.sqlite.org/c3ref/close.html
    """

    @event.listens_for(engine, "after_cursor_execute")
    def executed(connection: Connection, cursor: object, *statement: object) -> None:
        if isinstance(cursor, sqlite3.Cursor) and cursor.description is not None:
            connection.info.setdefault(_CURSORS, WeakSet()).add(cursor)

    @event.listens_for(engine, "checkin")
    @event.listens_for(engine, "close")
    def leaves(connection: object, record: ConnectionPoolEntry) -> None:
        for cursor in record.info.pop(_CURSORS, ()):
            cursor.close()


def _begin_immediate(connection: Connection, busy_timeout_s: float) -> None:
    """Take the write lock at once, not at the first write.

    A deferred transaction that has read and then wants to write fails "locked" whatever the busy
    timeout. The wait is cut into pieces, since SQLite does not hear an interrupt while it waits.
    """
    guard = guard_of(connection)
    driver: Any = connection.connection.dbapi_connection
    limits = [time.monotonic() + busy_timeout_s]
    if guard is not None:
        limits += [limit for limit in (guard.deadline_at, guard.begin_by) if limit is not None]
    give_up_at = min(limits)
    driver.execute(f"PRAGMA busy_timeout = {_POLL_S * 1000:.0f}")
    try:
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if guard is not None:
                guard.check()
            if not busy or time.monotonic() >= give_up_at:
                break
        if busy and guard is not None and give_up_at == guard.begin_by:
            # In the queue for the slot and here, it was one wait for a turn to write.
            raise Unavailable("another process holds the database file's write lock")
        # The last try, whose error is SQLAlchemy's.
        connection.exec_driver_sql("BEGIN IMMEDIATE", execution_options={OWN: True})
    finally:
        driver.execute(f"PRAGMA busy_timeout = {busy_timeout_s * 1000:.0f}")


_NAMED = {
    sqlite3.SQLITE_CONSTRAINT_CHECK: "",
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "NOT NULL ",
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "",
    sqlite3.SQLITE_CONSTRAINT_ROWID: "",
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: "",
}
"""The kinds whose message ends with names of the schema, and what is put before those."""


def _is_not_there(error: BaseException | None) -> bool:
    """Whether a table or a column is what an error is about.

    It has no code of its own for it. The words are fixed in SQLite's source (sqlite3LocateTable, lookupName,
    sqlite3Insert); where they ever change, it is an error in the program again.
    """
    told = str(error)
    return told.startswith(("no such table: ", "no such column: ")) or " has no column named " in told


def _constraint_of(error: BaseException | None, code: int) -> str | None:
    """The name SQLite gives a constraint: "UNIQUE constraint failed: teams.name" is "teams.name".

    It has no field for it. The text before the colon is fixed in SQLite's source (sqlite3VdbeHalt and
    sqlite3UniqueConstraint); where it ever changes, the message falls back to the general one. Of other kinds
    (a trigger's RAISE) the message may hold anything, and of a foreign key nothing.
    """
    _, colon, name = str(error).partition(" constraint failed: ")
    return _NAMED[code] + name if colon and code in _NAMED else None
