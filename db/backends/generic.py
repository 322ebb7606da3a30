"""Any other database with an SQLAlchemy dialect that blocks: what PEP 249 and SQLSTATE alone can promise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool

from conf import DatabaseSettings
from db.backend import Backend, Role
from db.constraints import refused_by, table_of
from db.errors import (
    ConnectionLost,
    DatabaseError,
    DeadlinePassed,
    NotInSchema,
    ReadOnlyViolation,
    RetryableConflict,
    StatementFailed,
    Unreachable,
    UsageError,
)

# https://learn.microsoft.com/en-us/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes
_CONNECTION_EXCEPTION = "08"
_NOT_CONNECTED = {"08001", "08004"}  # the client cannot connect; the server refuses it
_TIMEOUT = {"HYT00", "HYT01"}  # of a login or a statement; of the connection
_COMPLETION_UNKNOWN = "40003"
_NULL_OR_CHECK = {"23502", "23513", "23514"}
_NOT_IN_SCHEMA = {"42S02", "42S22"}  # a table, a column
_SQLSTATE = re.compile("[0-9A-Z]{5}")


class Generic(Backend):
    """A database that nothing is known of but its dialect: docs/databases.md says what is not promised.

    Reads are in a transaction of their own, which is rolled back. A statement that failed ends its unit of
    work, also where the program caught the error: there is no telling if its transaction is still there.
    """

    not_promised = (
        "the generic backend serves it: no cancel in the database, no commit marker, no read-only "
        "connection, no statement time limit; docs/databases.md has what holds"
    )
    asks_whether_lost = True
    reader_autocommits = False
    isolation_levels = ()

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        return dict(settings.connect_args)

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        return {"poolclass": NullPool} if role == "migration" else {}

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        if role == "reader":
            event.listen(engine, "before_cursor_execute", _refuse_write)

    def transaction_options(self, label: str, *, isolation: str | None, snapshot: bool) -> Mapping[str, Any]:
        raise UsageError(
            f"{label}: {'snapshot' if isolation is None else 'isolation'} is not supported on "
            f"{self.url.get_backend_name()}, which is served by the generic backend; set the level in the "
            "database, or leave it out"
        )

    def translate(self, error: DBAPIError) -> DatabaseError:
        code = _sqlstate(error)
        if isinstance(error, IntegrityError) or code.startswith("23"):
            return refused_by(None, table=table_of(error), fault=code if code in _NULL_OR_CHECK else None)
        if code in _TIMEOUT and error.statement is not None:
            return DeadlinePassed()
        if code in _NOT_CONNECTED | _TIMEOUT:
            return Unreachable("the database cannot be reached")
        if error.connection_invalidated or code.startswith(_CONNECTION_EXCEPTION):
            return ConnectionLost()
        if code.startswith("40"):
            return RetryableConflict("serialization")
        if code in _NOT_IN_SCHEMA:
            return NotInSchema(code)
        return StatementFailed(code or type(error.orig).__name__)

    def refuses_write(self, error: DBAPIError) -> bool:
        return False

    def commit_may_have_been_applied(self, error: DBAPIError) -> bool:
        code = _sqlstate(error)
        if not code:  # a driver without SQLSTATE does not say whether the database has answered
            return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        is_unknown = code.startswith(_CONNECTION_EXCEPTION) or code in {*_TIMEOUT, _COMPLETION_UNKNOWN}
        return error.connection_invalidated or is_unknown

    def is_read_only(self, connection: Connection) -> bool:
        return True  # by `_refuse_write` and the rollback: no option that a pooler could drop

    def takes_lock(self, connection: Connection, name: str) -> bool:
        raise UsageError(
            f"{self.url.get_backend_name()} is served by the generic backend, which has no lock for "
            "alone=True: leave it out, and run the job in one process"
        )

    def transaction_is_lost(self, connection: Any) -> bool:
        return True  # only asked after a statement that failed

    def cancel_statement(self, connection: Any) -> None:
        """PEP 249 has no call for it: the statement runs to its end, and its unit is rolled back then."""

    def shutdown_socket(self, connection: Any) -> None:
        """PEP 249 does not show the socket."""


def _refuse_write(
    connection: Connection, cursor: object, statement: str, parameters: object, context: Any, many: bool
) -> None:
    if context.isinsert or context.isupdate or context.isdelete:
        raise ReadOnlyViolation(
            "a write in a read-only unit of work. GET and HEAD work on the reader: write in a POST, PUT, "
            "PATCH or DELETE, in `self.in_new_transaction(…)`, or set `read_only = False` on the handler"
        )


def _sqlstate(error: DBAPIError) -> str:
    """The SQLSTATE of a driver's error, or nothing: as an attribute, or as ODBC drivers have it, in front."""
    arguments: tuple[object, ...] = getattr(error.orig, "args", ())
    for told in (getattr(error.orig, "sqlstate", None), *arguments[:1]):
        if isinstance(told, str) and _SQLSTATE.fullmatch(told):
            return told
    return ""
