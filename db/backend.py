"""The interface of a database: what `db` asks of it, with the answers that hold for most."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from greenlet import getcurrent
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from db.errors import DatabaseError, UsageError
from db.observer import Observer

Role = Literal["writer", "reader", "migration"]

ExecutorName = Literal["auto", "threads", "greenlets"]

MIGRATION_STATEMENT_TIMEOUT_S = 600
"""Longest a migration's statement may run: enough for an index over some ten million rows."""

HOMES = "onfinish_homes"
"""Where a connection's ``info`` has the schemas of our own tables, by their names, where a transaction may
look for tables elsewhere (``SET LOCAL search_path``)."""


SERVER = "onfinish_server"
"""Where a connection's ``info`` has its server's own address, which a proxy does not hide."""


@dataclass(slots=True)
class MarkerRow:
    """A connection's own row of ``commit_witness``. Lives as long as that connection."""

    name: str
    table: str
    """With its schema, as SQL has it: found wherever a transaction looks for its tables."""

    sql: str
    """Writes the row over, for ``connection`` and ``transaction``, where the transaction has written."""

    look: str = ""
    """Reads such rows, by their names."""

    before_commit: tuple[str, str] | None = None
    """Writes the row over, in one string with COMMIT; the transaction's text stands between the two."""

    number: int = 0
    """Of the connection's transactions that have written their marker, how many are known to be committed."""


class ServerSession(NamedTuple):
    """A session of the database's server, as the server describes it.

    ``pid`` is the server's id of it. ``state``: "active", "idle in transaction", or what else the server
    calls it; empty where the role may not see it. ``state_s``: for how long. ``waits_for``: the ids of the
    sessions whose locks it waits for. ``application`` and ``user`` as the session has given them.
    ``awaits_standby``: whether its COMMIT waits for a synchronous standby; None where that is not told.
    """

    pid: int
    application: str
    user: str
    state: str
    state_s: float | None
    waits_for: tuple[int, ...]
    awaits_standby: bool | None = None


class Backend:
    """What one database does its own way. Lives as long as the engines made with it, and holds no connection.

    Args:
        url: where it is, with the driver named.
        executor: what it is to be used in, where the driver leaves a choice; "auto" for what is best.
    """

    drivers: tuple[str, ...] = ()
    """The drivers that are supported, as SQLAlchemy names them."""

    is_async = False
    """The driver waits on the event loop, in a greenlet; else it blocks, in a thread."""

    worker: Callable[[], object] = staticmethod(threading.get_ident)
    """Identifies what may be at work at the same time: the calling thread, or greenlet."""

    blocking_driver: str = ""
    """Backend and driver, as a URL names them, of the one that scripts and migrations use."""

    discard_after_interrupt = True
    """A connection whose statement was cancelled is closed: a late cancel could hit its next user."""

    belongs_to_process = False
    """The database lives in a file or in memory of the process that serves it, which may migrate it."""

    reader_autocommits = True
    """The reader's statements stand each for itself: there is no transaction that would have to be ended."""

    reader_settles_at_once = True
    """Such a statement's connection is checked in without a call of the driver."""

    shares_one_connection = False
    """There is but one connection, so the reader is the writer and one unit of work runs at a time."""

    cannot_change_session = ""
    """Why a unit of work may not change its session, and the way out. Empty: its connection is closed."""

    file: Path | None = None
    """Where the database is a file: its full path."""

    not_promised = ""
    """What holds on other databases and not on this one, in a sentence for the log."""

    lock_wait: tuple[str, str] | None = None
    """The module and the function in which a unit of work waits for a lock that no server knows of."""

    why_no_sessions = "this database has no server that could be asked for its sessions"
    """Why `list_sessions` cannot be asked; empty where it can."""

    isolation_levels: tuple[str, ...] = (
        "SERIALIZABLE",
        "REPEATABLE READ",
        "READ COMMITTED",
        "READ UNCOMMITTED",
    )
    """Those that the transaction of a unit of work may have."""

    isolation_is_a_transactions = False
    """A level asked for of a writer's connection holds for the transaction, and SQLAlchemy puts it back."""

    observer = Observer()
    """Told of what becomes of a COMMIT; its `Database` sets its own."""

    def __init__(self, url: URL, executor: ExecutorName = "auto") -> None:
        self.url = url

    def _wait_in_greenlets(self) -> None:
        self.is_async, self.worker = True, getcurrent

    def own_query(self, query: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of an environment's ``database.query`` this database understands."""
        return query

    def engine_url(self) -> URL:
        """What SQLAlchemy is to connect to."""
        return self.url

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        """What the driver's ``connect`` is given: our defaults, and the settings' own."""
        raise NotImplementedError

    def blocking_connect_args(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of the settings' own ``connect_args`` the driver for scripts and migrations understands."""
        return dict(given)

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        """What `sqlalchemy.create_engine` is given beyond the pool's settings."""
        raise NotImplementedError

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        """Put the database's own hooks on a new engine."""

    def pool_size(self, settings: DatabaseSettings, role: Role) -> tuple[int, int]:
        """How many connections are kept, and how many more there may be for a while."""
        if role == "reader" and settings.reader_pool_size is not None:
            return settings.reader_pool_size, 0
        return settings.pool_size, settings.max_overflow

    marker_key = ""
    """Where a connection's ``info`` has its `MarkerRow`."""

    has_commit_markers = False
    """Whether COMMIT can be lost on its way: the database is on the other side of a network."""

    snapshot_options: Mapping[str, Any] = MappingProxyType({})
    """Execution options under which a connection of the reader sees one state of the database throughout."""

    def transaction_options(self, label: str, *, isolation: str | None, snapshot: bool) -> Mapping[str, Any]:
        """Execution options under which a connection runs one transaction; afterwards it is as before.

        Args:
            label: how messages name the unit of work.
            isolation: the transaction's isolation level; None for that of a snapshot.
            snapshot: all reads of the transaction see one state of the database.

        Raises:
            UsageError: there is no such level here, or it does not give the snapshot that is asked for.
        """
        if isolation is None:
            return self.snapshot_options
        if isolation not in self.isolation_levels:
            raise UsageError(
                f"{label}: isolation = {isolation!r} is no level that a unit of work can have on this "
                f"database; set {' or '.join(self.isolation_levels)}, or None"
            )
        if snapshot and isolation.startswith("READ "):
            raise UsageError(
                f"{label}: snapshot = True and isolation = {isolation!r} contradict each other: one state of "
                "the database for all reads takes REPEATABLE READ, which snapshot sets by itself, or "
                "SERIALIZABLE"
            )
        return self.isolation_options(isolation)

    def isolation_options(self, level: str) -> Mapping[str, Any]:
        """The execution options of one of `isolation_levels`."""
        return {"isolation_level": level}

    def translate(self, error: DBAPIError) -> DatabaseError:
        """What a driver's error means. Decided by codes, never by message text."""
        raise NotImplementedError

    def refuses_write(self, error: DBAPIError) -> bool:
        """Whether the database refused a write since this connection is read-only."""
        raise NotImplementedError

    def commit_may_have_been_applied(self, error: DBAPIError) -> bool:
        """Whether an error of COMMIT leaves open if it was applied: the database did not answer."""
        raise NotImplementedError

    def effect_of(self, sql: str) -> int:
        """What a statement does to its transaction or session, see `db.backends.effects`."""
        return 0

    def is_idle(self, connection: Any) -> bool:
        """Whether the driver's connection, which lives, has no transaction; asked of the driver alone."""
        return False

    def mark_transaction(self, connection: Connection) -> object:
        """How to tell its transaction from one that was begun after it; None where there is no way."""
        return None

    def is_marked(self, connection: Any, mark: object) -> bool:
        """Whether the transaction of the driver's connection is the one that was marked."""
        return True

    def takes_lock(self, connection: Connection, name: str) -> bool:
        """Take a lock of this name in the database, until the end of the transaction; does not wait for it.

        Returns:
            Whether it was free. True where a transaction that writes is alone by itself.
        """
        return True

    def limit_statements(self, connection: Connection, timeout_s: float) -> None:
        """End every statement of this transaction that takes longer."""
        raise NotImplementedError

    def ask_marker(self, connection: Connection, row: MarkerRow) -> str:
        """The transaction in a row of ``commit_witness``, once the transaction that writes it has ended."""
        raise NotImplementedError

    def refuse_marker(self, connection: Connection, row: MarkerRow) -> None:
        """Have a marker of that row which is on its way, with its COMMIT, be refused when it arrives."""
        raise NotImplementedError

    def marker_does_not_follow(self, error: DBAPIError) -> bool:
        """Whether a marker was refused since its row is not where this connection's last COMMIT left it."""
        return False

    def read_markers(self, connection: Connection, names: Sequence[str]) -> Mapping[str, str]:
        """The texts of these rows of ``commit_witness``, by their names; of those that are there."""
        raise NotImplementedError

    def is_standby(self, connection: Connection) -> bool:
        """Whether the server follows another one, which may have more."""
        raise NotImplementedError

    read_only_options: Mapping[str, Any] = MappingProxyType({})
    """Execution options under which the database keeps a transaction of the writer's from writing."""

    def writes_unseen(self, connection: Connection) -> bool:
        """Whether a transaction of this database may write what it is not asked about: to another server."""
        raise NotImplementedError

    def is_read_only(self, connection: Connection) -> bool:
        """Whether the database itself keeps a connection of the reader from writing."""
        raise NotImplementedError

    asks_whether_lost = False
    """That costs a round trip: it is only done where a statement has failed."""

    def transaction_is_lost(self, connection: Any) -> bool:
        """Whether the driver's connection has no transaction that COMMIT would commit."""
        raise NotImplementedError

    def says_transaction_is_lost(self, error: DBAPIError) -> bool:
        """Whether a statement was refused because the transaction had failed before."""
        return False

    def marker_parameters(self, connection: str, transaction: str) -> Any:
        """The parameters of a `MarkerRow`'s statement, in the driver's own form."""
        raise NotImplementedError

    def commit_with_marker(self, connection: Any, marker: str) -> None:
        """Commit the transaction of the driver's connection, with its marker in one string with COMMIT."""
        raise NotImplementedError

    def marker_was_refused(self, connection: Any) -> bool:
        """Whether that failed at the marker, so that COMMIT has not run."""
        raise NotImplementedError

    def wait_was_cancelled(self, connection: Any) -> bool:
        """Whether a COMMIT of the driver's connection that has just succeeded is on no synchronous standby.

        An administrator has cancelled its wait for one: it is applied, and lost if the server is. Asked once.
        """
        return False

    def why_no_commit(self, connection: Connection) -> str | None:
        """Why no transaction of the writer's would be committed now, for any reader; else None."""
        return "the database takes no writes at the moment" if self.is_read_only(connection) else None

    def behind_s(self, connection: Connection) -> float | None:
        """How far behind its primary the server is that a connection of the reader leads to.

        Returns:
            Seconds; infinite where nothing is streamed to it; None where it is no standby, as far as known.
        """
        return None

    def code_of_missing_right(self, error: DBAPIError) -> str | None:
        """The driver's code, where a statement was refused since its role may not do that; else None."""
        return None

    def connection_errors(self) -> tuple[type[Exception], ...]:
        """What the driver's ``connect`` raises beside its own errors."""
        return ()

    def server_pid(self, connection: Any) -> int | None:
        """The server's id of a driver's connection, without asking the server; None where it is not known."""
        return None

    def list_sessions(self, connection: Connection, pids: Sequence[int]) -> list[ServerSession]:
        """Sessions of the server: those with these ids, and all that they wait for, directly or not.

        Takes one second at most.

        Raises:
            DBAPIError: the server did not answer in that time, or the role may not ask.
        """
        raise NotImplementedError

    def cancel_statement(self, connection: Any) -> bool | Awaitable[bool] | None:
        """Cancel what the driver's connection runs. Takes half a second at most.

        Called from another thread, or on the loop where the driver is asyncio's.

        Returns:
            Whether the request reached the database; None where the driver has no call for it.
        """
        raise NotImplementedError

    def shutdown_socket(self, connection: Any) -> None:
        """Break the driver's connection under the work that waits for its answer."""
        raise NotImplementedError
