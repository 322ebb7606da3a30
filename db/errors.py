"""What can go wrong between a unit of work and its database.

::

    DatabaseError
    ├── Refused                 a rule of the data forbids it
    │   ├── NotFound
    │   ├── Conflict            also what a constraint refuses, at a statement or only at COMMIT
    │   ├── Invalid
    │   └── PreconditionFailed
    ├── RetryableConflict       a serialization failure, a deadlock, a busy SQLite file
    ├── Unavailable             no answer now; later perhaps
    │   ├── PoolTimeout
    │   ├── NotMigrated         the schema is not there, or not as new as the code
    │   └── Unreachable
    │       ├── ConnectionLost  in the middle of a unit of work, before COMMIT was sent
    │       └── PoolerInBetween  a pooler that the settings do not know of
    ├── OutcomeUnknown          COMMIT was sent, and its outcome is not known
    │   ├── NotReplicated       it was applied, and its wait for a synchronous standby was cancelled
    │   └── PartlyCommitted     one database has kept its part of the work, another has not
    ├── Cancelled               stopped from outside, nothing kept
    │   ├── DeadlinePassed
    │   └── ClientDisconnected
    ├── UsageError              a fault of the program
    │   ├── SessionSettled, ConcurrentUse, OutsideRun, SessionNotOwned, NestedUnitOfWork, NoSession
    │   ├── ReadOnlyViolation
    │   └── TransactionAborted
    │       └── TransactionEnded  and part of its work may be kept
    ├── SchemaError             the schema is not where it would have to be
    └── StatementFailed         the database refused a statement for a reason that lies in the program
        ├── ConstraintFailed    a NOT NULL or a CHECK, for which no sentence is written
        ├── NotInSchema         it names a table or a column that is not there
        └── NotGranted          the transaction's role may not leave what its COMMIT needs

Driver errors are turned into these where the driver is called (`db.backends`), by
SQLSTATE or SQLite's result code, never by message text. No message here holds SQL, parameters or
a constraint's detail: such an error may be shown, its ``__cause__`` may not.
"""

from __future__ import annotations

from collections.abc import Sequence

from conf.database import POOLER


class DatabaseError(Exception):
    """Everything this package raises of its own."""


class Refused(DatabaseError):
    """A rule of the data forbids it; the caller can do something about that."""


class NotFound(Refused):
    """There is no such row.

    Args:
        what: the kind of row, as a reader calls it: "task".
        key: what it was looked up by.
    """

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"no {what} {key}")
        self.what = what
        self.key = key


class Conflict(Refused):
    """The data as it stands does not allow this.

    Args:
        message: a sentence for the client.
        constraint: the constraint that refused it, where the database named one.
        table: the table of that constraint, where it is known.
    """

    def __init__(self, message: str, *, constraint: str | None = None, table: str | None = None) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.table = table


class Invalid(Refused):
    """What was asked for contradicts itself, or names something that does not exist.

    Args:
        message: a sentence for the client.
        pointer: JSON pointer (RFC 6901) to the field at fault, "" for the whole body.
        faults: pointer and message of each, where there are several.
    """

    def __init__(
        self, message: str, *, pointer: str = "", faults: Sequence[tuple[str, str]] | None = None
    ) -> None:
        super().__init__(message)
        self.faults = list(faults) if faults is not None else [(pointer, message)]

    @property
    def pointer(self) -> str:
        """The first field at fault."""
        return self.faults[0][0]


class PreconditionFailed(Refused):
    """The row is not in the state any more that the caller knows it in."""


CERTIFICATION = "certification"
"""The reason of a conflict at a Galera node, where a deadlock has the same code."""


class RetryableConflict(DatabaseError):
    """The database broke a tie between two transactions against this one.

    Nothing of it is kept, and the same work may well succeed when it is done again from the
    start: https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html

    Args:
        reason: for the log and the metrics: "deadlock", "serialization", "busy", `CERTIFICATION`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database refused the transaction as a conflict ({reason})")
        self.reason = reason


class Unavailable(DatabaseError):
    """The database cannot be worked with at the moment.

    Args:
        message: a sentence for the client; names no host.
        retry_after_s: when it may be worth asking again.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PoolTimeout(Unavailable):
    """Every slot is taken, and none came free in time, or too many callers wait for one already."""


class NotMigrated(Unavailable):
    """A statement names what the schema has not, and the schema is not where the code expects it.

    Args:
        reason: a sentence that names the revisions, and the way out.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, retry_after_s=5)


class Unreachable(Unavailable):
    """No connection, or a connection that broke before COMMIT was sent."""


class ConnectionLost(Unreachable):
    """The connection broke under a unit of work, and nothing of it was applied: it may be done again."""

    reason = "connection lost"

    def __init__(self) -> None:
        super().__init__("the connection to the database broke; nothing was applied")


class PoolerInBetween(Unreachable):
    """A pooler stands before the database that the settings do not name. Stops the start of the service.

    Args:
        finding: how it shows.
    """

    def __init__(self, finding: str) -> None:
        super().__init__(
            f'a connection pooler stands before the database: {finding}; set database.pooler = "{POOLER}"'
        )


class OutcomeUnknown(DatabaseError):
    """COMMIT was sent, and its answer never came."""

    def __init__(
        self, message: str = "the connection was lost during COMMIT; whether it was applied is not known"
    ) -> None:
        super().__init__(message)


class NotReplicated(OutcomeUnknown):
    """COMMIT was applied, and an administrator has cancelled its wait for a synchronous standby.

    It is lost where the standby takes over: see the setting ``database.unreplicated_commit``.
    """

    def __init__(self) -> None:
        super().__init__("COMMIT was applied at one server, and no synchronous standby has confirmed it")


class PartlyCommitted(OutcomeUnknown):
    """A request at several databases was committed at one, and not at a later one; see ``__cause__``.

    Never retried: the part that was kept would be done twice.
    """

    def __init__(self) -> None:
        super().__init__("one database has applied its part of the work, and another has not")


class Cancelled(DatabaseError):
    """The unit of work was stopped from outside. Nothing of it is kept."""


class DeadlinePassed(Cancelled):
    """The time for the request ran out."""

    def __init__(self, message: str = "the time for this request ran out; nothing of it was kept") -> None:
        super().__init__(message)


class ClientDisconnected(Cancelled):
    """The client has closed its connection before it was answered."""

    def __init__(self) -> None:
        super().__init__("the client closed its connection before it was answered")


class UsageError(DatabaseError):
    """The program used a session in a way that cannot be right. The message names the way out."""


class SessionSettled(UsageError):
    """A session was used after its unit of work had ended."""


class ConcurrentUse(UsageError):
    """Two pieces of work wanted one session at the same time."""


class OutsideRun(UsageError):
    """SQL was sent from outside `run`, where it would have stopped the event loop."""


class SessionNotOwned(UsageError):
    """Code other than the unit of work tried to end its session."""


class NestedUnitOfWork(UsageError):
    """A unit of work was begun in a task or thread that holds another one open."""


class NoSession(UsageError):
    """Model code looked its session up where it has none. Nothing was done."""


class ReadOnlyViolation(UsageError):
    """A write in a read-only unit of work, refused by the database itself."""


class TransactionAborted(UsageError):
    """The database had aborted the transaction before COMMIT.

    PostgreSQL answers COMMIT in an aborted transaction with ROLLBACK and no error, and sqlite3's
    ``commit()`` does nothing when SQLite has rolled back by itself. Code that swallowed the first
    error would take its work for committed.
    """


class TransactionEnded(TransactionAborted):
    """Code other than the unit of work ended its transaction: the driver's own ``commit()``, DDL on MySQL.

    What came before may be kept, or not: the outcome is unknown, whatever else went wrong.
    """


class StatementFailed(DatabaseError):
    """The database refused a statement for a reason that lies in the program.

    Args:
        code: SQLSTATE, or SQLite's error name.
    """

    def __init__(self, code: str) -> None:
        super().__init__(f"the database refused a statement ({code})")
        self.code = code


class ConstraintFailed(StatementFailed):
    """A NOT NULL or a CHECK refused a row, and no sentence is written for it: the program let a value pass.

    Args:
        code: as of `StatementFailed`.
        constraint: its name; ``NOT NULL table.column``.
        table: the table, or the domain, where it is known.
    """

    def __init__(self, code: str, *, constraint: str | None, table: str | None) -> None:
        super().__init__(code)
        self.constraint = constraint
        self.table = table

    def __str__(self) -> str:
        where = f" of {self.table}" if self.table else ""
        named = self.constraint or "a constraint without a name"
        return (
            f"the database refused a row{where}: {named} ({self.code}); check the value before it is "
            "written, or write in `refusals` beside the table what it means to a client"
        )


class NotInSchema(StatementFailed):
    """A statement names a table or a column that is not there: a slip, or a schema that is not migrated."""


class NotGranted(StatementFailed):
    """The role that a transaction has taken on may not write the row that shows whether COMMIT was applied.

    Args:
        code: SQLSTATE.
        table: where that row is.
    """

    def __init__(self, code: str, table: str) -> None:
        super().__init__(code)
        grant = f"GRANT SELECT, INSERT, UPDATE ON {table} TO that role"
        way_out = f"{grant}, or set database.commit_witness = false"
        self.args = (f"the transaction's role may not write {table} ({code}): {way_out}",)


class SchemaError(DatabaseError):
    """The schema is not where it has to be, or cannot be brought there. The message names the way out."""
