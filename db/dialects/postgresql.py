"""PostgreSQL through psycopg2."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from conf import DatabaseSettings
from db.dialects import postgresql_checkup
from db.dialects.base import Dialect, Role, refused_by
from db.dialects.libpq import cancel
from db.errors import (
    ConnectionLost,
    DatabaseError,
    DeadlinePassed,
    PoolerInBetween,
    RunAgain,
    StatementFailed,
    TransactionLost,
    Unavailable,
    Unreachable,
)
from db.findings import Finding, Plan
from db.watch import watch_of

_INTEGRITY_CONSTRAINT_VIOLATION = "23"
_CONNECTION_EXCEPTION = "08"
_INSUFFICIENT_RESOURCES = "53"
_OPERATOR_INTERVENTION = "57"
_RUN_AGAIN = {"40001": "serialization", "40P01": "deadlock"}
_QUERY_CANCELED = "57014"
_LOCK_NOT_AVAILABLE = "55P03"
_READ_ONLY_SQL_TRANSACTION = "25006"
IDLE, _IN_ERROR = 0, 3  # psycopg2.extensions.TRANSACTION_STATUS_IDLE, …_INERROR

READ_ONLY_DEFAULT = "default_transaction_read_only"

_CANCEL_TIMEOUT_S = 0.5

# PgBouncer's words, for want of anything else: psycopg2 gives no code for what is said before a connection is
# made. https://github.com/pgbouncer/pgbouncer/blob/master/src/client.c
_REFUSED_BY_POOLER = "unsupported startup parameter"


class PostgreSQL(Dialect):
    """PostgreSQL 13 and newer. https://www.postgresql.org/docs/current/errcodes-appendix.html"""

    drivers = ("psycopg2",)
    has_witness = True
    witness_key = "onfinish_witness"
    # No id is assigned to a transaction that only read: it leaves nothing, and has nothing to lose.
    witness_sql = """
        INSERT INTO commit_witness (connection, transaction)
        SELECT %(connection)s, %(transaction)s WHERE pg_current_xact_id_if_assigned() IS NOT NULL
        ON CONFLICT (connection) DO UPDATE SET transaction = excluded.transaction, update_time = now()
    """
    snapshot_options = MappingProxyType({"isolation_level": "REPEATABLE READ"})

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "connect_timeout": max(1, round(settings.connect_timeout_s)),
            "application_name": settings.application_name,
            # A link that went down without a word is noticed in half a minute, not after two hours.
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # The same where something was sent: the kernel's own patience is a quarter of an hour.
            "tcp_user_timeout": 30_000,
        }
        for name in self.url.query:
            arguments.pop(name, None)
        arguments |= settings.connect_args
        # Joined, never replaced: the reader's read-only setting must outlive somebody's search_path.
        options = " ".join([f"-c {name}={value}" for name, value in self._settings(settings, role).items()])
        options = " ".join(filter(None, [options, self._given_options(settings)]))
        if options:
            arguments["options"] = options
        wanted = settings.connect_args.get("target_session_attrs", self.url.query.get("target_session_attrs"))
        if role == "reader" and wanted == "read-write":
            # The reader's sessions are read-only by their own wish, so libpq would take no server for one.
            arguments["target_session_attrs"] = "primary"
        return arguments

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        if role == "migration":
            return {"poolclass": NullPool}
        options: dict[str, Any] = {}
        if role == "reader":
            options["isolation_level"] = "AUTOCOMMIT"
        return options

    def translate(self, error: DBAPIError) -> DatabaseError:
        code = getattr(error.orig, "pgcode", None)
        if code is None:  # the driver says so, not the server: the connection failed or broke
            if error.connection_invalidated:
                return ConnectionLost()
            if _REFUSED_BY_POOLER in str(error.orig):
                return PoolerInBetween("it refuses the options with which connections start")
            if type(error.orig).__name__ in ("OperationalError", "InterfaceError"):
                return Unreachable("the database cannot be reached")
            return StatementFailed(type(error.orig).__name__)
        if code[:2] == _INTEGRITY_CONSTRAINT_VIOLATION:
            diagnostics = getattr(error.orig, "diag", None)
            return refused_by(getattr(diagnostics, "constraint_name", None))
        if code in _RUN_AGAIN:
            return RunAgain(_RUN_AGAIN[code])
        if code == _QUERY_CANCELED:
            return DeadlinePassed()
        if code == _LOCK_NOT_AVAILABLE:
            return Unavailable("a lock was not to be had in time")
        if code == _READ_ONLY_SQL_TRANSACTION:
            return Unavailable("the database takes no writes at the moment", retry_after_s=5)
        if error.connection_invalidated and code[:2] in (_CONNECTION_EXCEPTION, _OPERATOR_INTERVENTION):
            return ConnectionLost()
        if code[:2] in (_CONNECTION_EXCEPTION, _INSUFFICIENT_RESOURCES, _OPERATOR_INTERVENTION):
            return Unreachable("the database cannot be worked with at the moment", retry_after_s=2)
        return StatementFailed(code)

    def refuses_write(self, error: DBAPIError) -> bool:
        return bool(getattr(error.orig, "pgcode", None) == _READ_ONLY_SQL_TRANSACTION)

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        if role == "reader":
            _discard_changed(engine)
        if role != "writer":
            return
        _keep_to_one_transaction(engine)

        @event.listens_for(engine, "handle_error")
        def leave_read_only_server(context: ExceptionContext) -> None:
            # What was the primary when this connection was made may be a standby now, and the URL may name
            # others: the next unit of work connects anew, and so do those that have the pool's other ones.
            if getattr(context.original_exception, "pgcode", None) == _READ_ONLY_SQL_TRANSACTION:
                context.is_disconnect = True

        if not settings.commit_witness:
            return
        before = self._before_first_statement(settings, role)

        @event.listens_for(engine, "connect")
        def look_for_witness(connection: Any, record: ConnectionPoolEntry) -> None:
            # An application with tables of its own may have none.
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"{before}SELECT to_regclass('commit_witness') IS NOT NULL")
                    if cursor.fetchone()[0]:
                        record.info[self.witness_key] = uuid.uuid4().hex
                connection.rollback()
            except BaseException:
                connection.close()  # the pool does not, and the collector takes its time
                raise

    def ask_witness(self, connection: Connection, name: str, *, timeout_s: float) -> str:
        milliseconds = max(1, int(timeout_s * 1000))
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        # An insert, since the row in question may itself be of a transaction in flight: it waits for that.
        found = connection.exec_driver_sql(
            "INSERT INTO commit_witness (connection, transaction) VALUES (%s, '')"
            " ON CONFLICT (connection) DO UPDATE SET update_time = now() RETURNING transaction",
            (name,),
        )
        return str(found.scalar_one())

    def commit_may_have_been_applied(self, error: DBAPIError) -> bool:
        code = getattr(error.orig, "pgcode", None)
        # A backend told to stop while it waits for a standby has committed already, and says 57P01. One
        # whose statement is cancelled in that wait warns and commits: as an error, 57014 comes before.
        return code is None or (
            code[:2] in (_CONNECTION_EXCEPTION, _OPERATOR_INTERVENTION) and code != _QUERY_CANCELED
        )

    def is_read_only(self, connection: Connection) -> bool:
        return bool(connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on")

    def transaction_is_lost(self, connection: Any) -> bool:
        return bool(connection.info.transaction_status == _IN_ERROR)

    def examine(self, connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
        return postgresql_checkup.examine(connection, settings, plan)

    def interrupt(self, connection: Any) -> bool:
        return cancel(connection, timeout_s=_CANCEL_TIMEOUT_S)

    def sever(self, connection: Any) -> None:
        # close() would wait for the thread that hangs on this connection; shutdown(2) wakes it. Where the
        # link was down already, or the driver has noticed, there is nothing left to do.
        with (
            contextlib.suppress(OSError, connection.InterfaceError),
            socket.socket(fileno=os.dup(connection.fileno())) as own,
        ):
            own.shutdown(socket.SHUT_RDWR)

    def _settings(self, settings: DatabaseSettings, role: Role) -> dict[str, str]:
        """Server settings that hold from the connection's first moment, at no round trip."""
        limits: dict[str, str] = {}
        if role != "migration":  # a migration sets limits of its own
            for name, seconds in (
                ("statement_timeout", settings.statement_timeout_s),
                ("lock_timeout", settings.lock_timeout_s),
                ("idle_in_transaction_session_timeout", settings.idle_in_transaction_timeout_s),
                ("idle_session_timeout", settings.idle_session_timeout_s),
            ):
                if seconds:
                    limits[name] = f"{seconds * 1000:.0f}"
        if role == "reader":
            limits[READ_ONLY_DEFAULT] = "on"
        return limits

    def _given_options(self, settings: DatabaseSettings) -> str:
        """The server settings of whoever runs this, as they would stand on the server's command line."""
        return str(settings.connect_args.get("options", self.url.query.get("options")) or "")

    def _before_first_statement(self, settings: DatabaseSettings, role: Role) -> str:
        """SQL that goes out with the first statement of each transaction."""
        return ""


def _discard_changed(engine: Engine) -> None:
    """Throw away a connection of the reader that does not come back as it was made.

    Its units of work send no ROLLBACK, and in AUTOCOMMIT psycopg2's does nothing: a transaction that model
    code began by a statement of its own would be the next reader's too, and an error in it everybody's.
    Both questions are answered by the driver, without a round trip.
    """

    @event.listens_for(engine, "connect")
    def note(connection: Any, record: ConnectionPoolEntry) -> None:
        # PostgreSQL 14 and newer tell it; before that it is None at both times.
        record.info[READ_ONLY_DEFAULT] = connection.get_parameter_status(READ_ONLY_DEFAULT)

    @event.listens_for(engine, "checkin")
    def compare(connection: Any, record: ConnectionPoolEntry) -> None:
        if connection is not None and (
            connection.get_transaction_status() != IDLE
            or connection.get_parameter_status(READ_ONLY_DEFAULT) != record.info.get(READ_ONLY_DEFAULT)
        ):
            record.invalidate()


def _keep_to_one_transaction(engine: Engine) -> None:
    """Notice a statement that has ended the transaction, such as COMMIT as text: the next begins another.

    What comes after it would be kept without what came before, and nobody would be told.
    """

    @event.listens_for(engine, "after_cursor_execute")
    def after_cursor_execute(connection: Connection, *statement: object) -> None:
        watch = watch_of(connection)
        driver: Any = connection.connection.dbapi_connection
        if watch is not None and driver.get_transaction_status() == IDLE:
            raise TransactionLost(
                f"{watch.label}: a statement ended the transaction, which its unit of work alone may end; "
                "what came before it is kept or undone already. Guard a part with `session.begin_nested()`"
            )
