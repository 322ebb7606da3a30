"""What each database needs round a migration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import Connection

from db.backend import MIGRATION_STATEMENT_TIMEOUT_S as STATEMENT_TIMEOUT_S
from db.backends.mysql import is_galera
from db.errors import SchemaError
from db.schema.lease import BUSY, leased

QUEUE_TIMEOUT_S = 600
"""Longest wait for another migration to end. Several workers or hosts may start, and migrate, at once."""

LOCK_TIMEOUT_S = 5
"""Longest wait for a table's lock. While ALTER TABLE waits in the queue, all other reads and writes
of that table wait behind it: better a migration that gives up than a service that stands still.
https://www.postgresql.org/docs/current/explicit-locking.html"""

ADVISORY_LOCK = int.from_bytes(b"onfinish")
"""Any 64-bit number will do; this one can be read in pg_locks."""

_TAKE_LOCK = f"SELECT GET_LOCK(CONCAT('onfinish.', SHA1(DATABASE())), {QUEUE_TIMEOUT_S})"


def guards(backend: str) -> tuple[str, ...]:
    """The statements that a migration's transaction begins with. SQLite's BEGIN IMMEDIATE is guard enough.

    MySQL and MariaDB commit each DDL by itself: there the lock belongs to the connection, which ends with the
    migration, and is one for each of the server's databases; a Galera cluster needs more, see `leased`. Their
    statements' own limit the connection has.
    """
    if backend in ("mysql", "mariadb"):
        return (_TAKE_LOCK, f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT_S}")
    if backend != "postgresql":
        return ()
    return (
        f"SET LOCAL lock_timeout = '{QUEUE_TIMEOUT_S}s'",
        f"SET LOCAL statement_timeout = '{QUEUE_TIMEOUT_S}s'",
        # Held to the end of the transaction, whatever that end is.
        f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})",
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'",
        f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'",
    )


@contextmanager
def guarded(connection: Connection) -> Iterator[None]:
    """Migrate alone, within time limits, and leave no row that refers to nothing.

    Args:
        connection: in a transaction that nothing has been done in yet.

    Raises:
        SchemaError: another migration did not end in time.
        SchemaError: rows would refer to nothing. SQLite, whose foreign keys are off while tables are
            rebuilt, does not notice by itself.
    """
    for statement in guards(connection.dialect.name):
        result = connection.exec_driver_sql(statement)
        if statement == _TAKE_LOCK and result.scalar() != 1:  # no error there, but a 0
            raise SchemaError(BUSY)
    with leased(connection, QUEUE_TIMEOUT_S) if is_galera(connection) else nullcontext():
        yield
    if connection.dialect.name == "sqlite":
        orphans = {row.table for row in connection.exec_driver_sql("PRAGMA foreign_key_check")}
        if orphans:
            tables = ", ".join(sorted(orphans))
            raise SchemaError(f"rows of {tables} would refer to nothing; nothing was changed")
