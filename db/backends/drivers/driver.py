"""The questions that a database's ways leave to its driver."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import URL

from conf import DatabaseSettings
from db.backend import Role
from db.backends.drivers.notices import take, unconfirmed


class PostgresDriver:
    """How one of PostgreSQL's drivers is spoken to. Lives as long as its dialect; holds no connection.

    Wherever a connection is asked for, it is the one that the pool has: SQLAlchemy's adapter, for a driver
    that is asyncio's.

    Args:
        url: where the database is.
    """

    is_async = False

    settles_without_waiting = True
    """A connection in AUTOCOMMIT can be checked in without a call of the driver."""

    asks_whether_aborted = False
    """Only the server knows whether a transaction can still be committed."""

    takes_several_statements = False
    """Several go in one string, in one round trip."""

    def __init__(self, url: URL) -> None:
        self.url = url

    def engine_url(self) -> URL:
        """What SQLAlchemy is to connect to."""
        return self.url

    def connect_args(
        self, settings: DatabaseSettings, role: Role, *, server_settings: Mapping[str, str], given: str
    ) -> dict[str, Any]:
        """What the driver's ``connect`` is given.

        Args:
            settings: where from.
            role: what the connection is for.
            server_settings: to hold from the connection's first moment.
            given: such settings of the operator, as they stand on a server's command line.
        """
        raise NotImplementedError

    def for_libpq(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of the settings' own arguments for ``connect`` libpq understands as well."""
        return dict(given)

    def batches(self, statements: Sequence[str]) -> Sequence[str]:
        """Statements without parameters, in as few strings as can be sent."""
        return ["; ".join(statements)] if statements and self.takes_several_statements else statements

    def behind_pooler(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments for a pooler that hands each transaction another connection to the server."""
        raise NotImplementedError

    placeholder = "%s"
    """A parameter in SQL."""

    takes_marker_with_commit = False
    """`commit_with_marker` is there."""

    def commit_with_marker(self, connection: Any, marker: str) -> None:
        """See `Backend.commit_with_marker`."""
        raise NotImplementedError

    def marker_was_refused(self, connection: Any) -> bool:
        """See `Backend.marker_was_refused`."""
        raise NotImplementedError

    def watch_notices(self, connection: Any) -> None:
        """Have a new connection's notices noted, where its class does not do that."""

    def wait_was_cancelled(self, connection: Any) -> bool:
        """See `Backend.wait_was_cancelled`."""
        return bool(unconfirmed) and take(self._address(connection))

    def _address(self, connection: Any) -> int:
        return id(connection.driver_connection)

    def has_written(self, context: Any) -> bool:
        """Whether the server has reported rows that a statement inserted, updated or deleted.

        Args:
            context: the `ExecutionContext` of one that was executed.
        """
        writes = context.isinsert or context.isupdate or context.isdelete
        return bool(writes and context.cursor.rowcount > 0)

    def marker_sql(self, template: str, *, table: str) -> str:
        """A statement with ``{connection}`` and ``{transaction}`` in it, as `witness_parameters` fit it."""
        return template.format(
            connection="%(connection)s", transaction="%(transaction)s", table=table.replace("%", "%%")
        )

    def marker_parameters(self, connection: str, transaction: str) -> Any:
        """The two, in the driver's own form."""
        return {"connection": connection, "transaction": transaction}

    def connection_errors(self) -> tuple[type[Exception], ...]:
        """What ``connect`` raises beside the driver's own errors."""
        return ()

    def field_of(self, error: Any, name: str) -> str | None:
        """A field of an error: constraint_name, table_name, column_name, datatype_name."""
        return getattr(getattr(error, "diag", None), name, None)

    def has_stale_plan(self, error: Any) -> bool:
        """Whether a statement failed since its plan was prepared before the schema was changed."""
        return False

    def is_idle(self, connection: Any) -> bool:
        """Whether the connection lives, and no transaction is open."""
        raise NotImplementedError

    def is_aborted(self, connection: Any) -> bool | None:
        """Whether the open transaction can only be rolled back. None: only the server knows."""
        raise NotImplementedError

    def parameter(self, connection: Any, name: str) -> str | None:
        """What the server has reported of one of its settings."""
        raise NotImplementedError

    def begins_read_only(self, connection: Any) -> None:
        """Have each transaction of a connection begin as READ ONLY."""
        raise NotImplementedError

    def server_pid(self, connection: Any) -> int | None:
        """See `Backend.server_pid`."""
        raise NotImplementedError

    def cancel_statement(self, connection: Any) -> bool | Awaitable[bool] | None:
        """See `StatementGuard.cancel_statement`."""
        raise NotImplementedError

    def shutdown_socket(self, connection: Any) -> None:
        """Break the connection under the work that waits for its answer."""
        raise NotImplementedError


class LibpqDriver(PostgresDriver):
    """What the drivers on libpq have in common."""

    def connect_args(
        self, settings: DatabaseSettings, role: Role, *, server_settings: Mapping[str, str], given: str
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "connect_timeout": max(1, round(settings.connect_timeout_s)),
            "application_name": settings.application_name,
            "keepalives_idle": settings.keepalive_idle_s,
            "keepalives_interval": settings.keepalive_interval_s,
            "keepalives_count": settings.keepalive_count,
            "tcp_user_timeout": round((settings.tcp_user_timeout_s or 0) * 1000),  # 0: the kernel's own
        }
        for name in self.url.query:
            arguments.pop(name, None)
        arguments |= settings.connect_args
        # Joined, never replaced: the reader's read-only setting must outlive an operator's search_path.
        options = " ".join([f"-c {name}={value}" for name, value in server_settings.items()])
        options = " ".join(filter(None, [options, given]))
        if options:
            arguments["options"] = options
        wanted = settings.connect_args.get("target_session_attrs", self.url.query.get("target_session_attrs"))
        if role == "reader" and wanted == "read-write":
            # The reader's sessions are read-only by their own wish, so libpq would take no server for one.
            arguments["target_session_attrs"] = "primary"
        return arguments

    def behind_pooler(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments | {"options": ""}  # empty, not absent: libpq would take PGOPTIONS


def shut_down(fileno: Callable[[], int], *gone: type[Exception]) -> None:
    """Shut a connection's socket down, which wakes the work that waits for it; closing would wait for that.

    Args:
        fileno: returns its descriptor.
        gone: what that raises where the driver has noticed that the link is down.
    """
    with (
        contextlib.suppress(OSError, *gone),
        socket.socket(fileno=os.dup(fileno())) as own,
    ):
        own.shutdown(socket.SHUT_RDWR)
