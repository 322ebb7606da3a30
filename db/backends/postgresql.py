"""PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, ExecutionContext, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from conf import DatabaseSettings
from db.backend import HOMES, SERVER, Backend, ExecutorName, MarkerRow, Role, ServerSession
from db.backends.drivers.asyncpg import Asyncpg
from db.backends.drivers.driver import PostgresDriver
from db.backends.drivers.psycopg import Psycopg
from db.backends.drivers.psycopg2 import Psycopg2, Psycopg2OnLoop
from db.backends.effects import POSTGRESQL
from db.constraints import refused_by
from db.errors import (
    ConnectionLost,
    DatabaseError,
    DeadlinePassed,
    NotInSchema,
    PoolerInBetween,
    RetryableConflict,
    StatementFailed,
    Unavailable,
    Unreachable,
)
from db.guard import StatementGuard
from db.statement_hooks import hook_statements
from db.written import CHARS, DIGITS

_INTEGRITY_CONSTRAINT_VIOLATION = "23"
_NOT_NULL_VIOLATION = "23502"
_CHECK_VIOLATION = "23514"
_CONNECTION_EXCEPTION = "08"
_INSUFFICIENT_RESOURCES = "53"
_FEATURE_NOT_SUPPORTED = "0A"
_OPERATOR_INTERVENTION = "57"
_SYSTEM_ERROR = "58"  # its disk, say
_OF_THE_SERVER = (_CONNECTION_EXCEPTION, _INSUFFICIENT_RESOURCES, _OPERATOR_INTERVENTION, _SYSTEM_ERROR)
_INVALID_AUTHORIZATION = "28"  # a wrong password, say
_INVALID_CATALOG_NAME = "3D"  # no such database
_OF_THE_LOGIN = (_INVALID_AUTHORIZATION, _INVALID_CATALOG_NAME)  # asyncpg has them; libpq has words alone
_RUN_AGAIN = {"40001": "serialization", "40P01": "deadlock"}
_QUERY_CANCELED = "57014"
_LOCK_NOT_AVAILABLE = "55P03"
_READ_ONLY_SQL_TRANSACTION = "25006"
_IN_FAILED_TRANSACTION = "25P02"
_INSUFFICIENT_PRIVILEGE = "42501"
_DIVISION_BY_ZERO = "22012"
_UNDEFINED = ("42P01", "42703")  # a table, a column
_TERMINATED = ("57P01", "57P02", "57P05")  # admin_shutdown, crash_shutdown, idle_session_timeout

_OF_THE_LINK = (
    "OperationalError",
    "ConnectionTimeout",
    "InterfaceError",
    "InternalError",
    "DatabaseError",
    "InternalClientError",
)
"""What the drivers raise of their own where a connection is not what it should be.

The second, psycopg's, where a host accepts it and sends nothing; the last three where it broke off in an
answer: psycopg: "got no result from the query"; psycopg2: "error with status … and no message"; asyncpg:
"cannot switch to state 15; another operation (2) is in progress".
"""

READ_ONLY_DEFAULT = "default_transaction_read_only"

_MARK = "onfinish"
"""A savepoint that is set where the program takes the driver's connection."""

_BEGAN_AT = "SELECT now()"
"""When the transaction began, to the microsecond: each has its own."""

# PgBouncer's words, for want of anything else: psycopg2 gives no code for an error before a connection is
# made. https://github.com/pgbouncer/pgbouncer/blob/master/src/client.c
_REFUSED_BY_POOLER = "unsupported startup parameter"


# Where the row is not at the number before, the server has lost, in a failover, what was committed over this
# connection, which may be one to a pooler: the marker divides by zero, and COMMIT is not run. The row stays
# as it is, and shows what has survived.
_FOLLOWED = (
    f"CASE left(own.transaction, {DIGITS})::bigint + 1 WHEN left(excluded.transaction, {DIGITS})::bigint"
    f" THEN left(excluded.transaction, {DIGITS}) || substr(own.transaction, {DIGITS + 1}, {DIGITS})"
    f" || substr(excluded.transaction, {2 * DIGITS + 1})"
    f" ELSE (1 / (length(own.transaction) - {CHARS}))::text END"
)

# No id is assigned to a transaction that only read: it leaves nothing, and has nothing to lose.
_TESTIFY = f"""
    INSERT INTO {{table}} AS own (connection, transaction)
    SELECT {{connection}}, {{transaction}} WHERE pg_current_xact_id_if_assigned() IS NOT NULL
    ON CONFLICT (connection) DO UPDATE SET update_time = now(), transaction = {_FOLLOWED}
"""

# The same of one that is known to have written. No UPDATE: the row may be gone, deleted as old. Until it
# arrives no lock shows that it is on its way. Where it was asked for and not found, the row's number is below
# zero, which no transaction follows: the COMMIT behind it in its string, however late, is not run.
_TESTIFY_WITH_COMMIT = (
    "INSERT INTO {table} AS own (connection, transaction) VALUES ('{connection}', $1)"  # noqa: S608  # ours
    " ON CONFLICT (connection) DO UPDATE SET update_time = now(), transaction = " + _FOLLOWED
)
# An array costs some drivers a look into the catalog, and each a loop.
_READ_MARKERS = (
    "SELECT connection, transaction FROM {table} WHERE connection = ANY(string_to_array({names}, ','))"
)
_REFUSED = f"-{1:0{DIGITS - 1}}{'9' * DIGITS}".ljust(CHARS, "0")
"""Of a row that was not there: no transaction follows it, and none that it might have had is in it."""

# Their place is looked up once, with the search path that the connection begins with: a transaction may set
# another one, its tenant's. https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATH
_LOOK_FOR_OWN = """
    SELECT relname, nspname, quote_ident(nspname) || '.' || quote_ident(relname),
        EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper)
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid IN (to_regclass('commit_witness'), to_regclass('idempotency_keys'))
    UNION ALL SELECT NULL, host(inet_server_addr()) || ' ' || inet_server_port(), NULL, NULL
"""


# pg_blocking_pids takes the lock manager's locks for a moment: asked only for sessions that wait for a lock.
_SESSIONS = text("""
    WITH RECURSIVE waits AS (
        SELECT pid, pg_blocking_pids(pid) AS waits_for FROM pg_stat_activity WHERE wait_event_type = 'Lock'
    ), wanted AS (
        SELECT unnest(CAST(:pids AS integer[])) AS pid
        UNION SELECT unnest(waits.waits_for) FROM wanted JOIN waits USING (pid)
    )
    SELECT pid, application_name, usename, state, waits_for, wait_event = 'SyncRep' AS awaits_standby,
        extract(epoch FROM clock_timestamp() - state_change) AS state_s
    FROM wanted JOIN pg_stat_activity USING (pid) LEFT JOIN waits USING (pid)
""")


# A standby that receives nothing has applied all that it received.
_BEHIND = text("""
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN NULL
        WHEN NOT EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 'infinity'
        WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float
""")

# Standbys confirm in the order of the log: behind one that waits for so long, all of the application wait.
# Another one may wait for more (remote_apply). A process may have its id behind the application's name.
_WHY_NO_COMMIT = text(r"""
    SELECT current_setting('transaction_read_only'),
        (SELECT count(*) FROM pg_stat_activity
         WHERE wait_event = 'SyncRep' AND state_change < clock_timestamp() - interval '2 seconds'
         AND datname = current_database() AND regexp_replace(application_name, ' \d+$', '')
            = regexp_replace(current_setting('application_name'), ' \d+$', ''))
""")


class PostgreSQL(Backend):
    """PostgreSQL 13 and newer. https://www.postgresql.org/docs/current/errcodes-appendix.html"""

    drivers = ("psycopg2", "psycopg", "asyncpg")
    blocking_driver = "postgresql+psycopg2"
    has_commit_markers = True
    marker_key = "onfinish_witness"
    snapshot_options = MappingProxyType({"isolation_level": "REPEATABLE READ"})
    read_only_options = MappingProxyType({"postgresql_readonly": True})
    isolation_is_a_transactions = True
    why_no_sessions = ""

    def __init__(self, url: URL, executor: ExecutorName = "auto") -> None:
        super().__init__(url, executor)
        name = url.get_driver_name()
        executor = AUTO if executor == "auto" else executor
        drivers = _DRIVERS if executor == "threads" else _DRIVERS | _ON_LOOP
        self.driver: PostgresDriver = drivers[name](url)
        if self.driver.is_async:
            self._wait_in_greenlets()
        self.reader_settles_at_once = self.reader_autocommits and self.driver.settles_without_waiting
        self.asks_whether_lost = self.driver.asks_whether_aborted

    def engine_url(self) -> URL:
        return self.driver.engine_url()

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        return self.driver.connect_args(
            settings,
            role,
            server_settings=self._settings(settings, role),
            given=self._given_options(settings),
        )

    def blocking_connect_args(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return self.driver.for_libpq(given)

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        if role == "migration":
            return {"poolclass": NullPool}
        options: dict[str, Any] = {}
        if role == "reader":
            options["isolation_level"] = "AUTOCOMMIT"
        return options

    def translate(self, error: DBAPIError) -> DatabaseError:
        code = sqlstate_of(error.orig)
        if code is None:  # the error is the driver's, not the server's: the connection failed or broke
            if error.connection_invalidated:
                return ConnectionLost()
            if _REFUSED_BY_POOLER in str(error.orig):
                return PoolerInBetween("it refuses the options with which connections start")
            if type(error.orig).__name__ in _OF_THE_LINK:
                return Unreachable("the database cannot be reached")
            return StatementFailed(type(error.orig).__name__)
        if code[:2] == _INTEGRITY_CONSTRAINT_VIOLATION:
            return self._refused_by_constraint(code, error.orig)
        if code in _RUN_AGAIN:
            return RetryableConflict(_RUN_AGAIN[code])
        if code == _QUERY_CANCELED:
            return DeadlinePassed()
        if code == _LOCK_NOT_AVAILABLE:
            return Unavailable("could not acquire a lock in time")
        if code == _READ_ONLY_SQL_TRANSACTION:
            return Unavailable("the database takes no writes at the moment", retry_after_s=5)
        if error.connection_invalidated and code[:2] in (
            _CONNECTION_EXCEPTION,
            _OPERATOR_INTERVENTION,
            _FEATURE_NOT_SUPPORTED,  # of a plan that is stale
        ):
            return ConnectionLost()
        if code[:2] in _OF_THE_SERVER:
            return Unreachable("the database cannot be worked with at the moment", retry_after_s=2)
        if code[:2] in _OF_THE_LOGIN:
            return Unreachable("the database cannot be reached")
        if code in _UNDEFINED:
            return NotInSchema(code)
        return StatementFailed(code)

    def _refused_by_constraint(self, code: str, error: object) -> DatabaseError:
        def field(name: str) -> str | None:
            return self.driver.field_of(error, name)

        constraint, table = field("constraint_name"), field("table_name") or field("datatype_name")
        # What a function raises under such a code, as a rule of the data, names no table.
        is_fault = code in (_NOT_NULL_VIOLATION, _CHECK_VIOLATION) and table is not None
        if is_fault and code == _NOT_NULL_VIOLATION:
            constraint = "NOT NULL " + ".".join(filter(None, (table, field("column_name"))))
        return refused_by(constraint, table=table, fault=code if is_fault else None)

    def code_of_missing_right(self, error: DBAPIError) -> str | None:
        code = sqlstate_of(error.orig)
        return code if code == _INSUFFICIENT_PRIVILEGE else None

    def refuses_write(self, error: DBAPIError) -> bool:
        return sqlstate_of(error.orig) == _READ_ONLY_SQL_TRANSACTION

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        if role == "reader":
            _discard_changed(engine, self.driver)

        @event.listens_for(engine, "handle_error")
        def leave_server(context: ExceptionContext) -> None:
            # What was the primary when this connection was made may be a standby now, and the URL may name
            # others: the next unit of work connects anew, and so do those that have the pool's other ones.
            # An asyncio connection that the server has ended looks connected for a moment longer.
            code = sqlstate_of(context.original_exception)
            leaves = (_READ_ONLY_SQL_TRANSACTION,) if role == "writer" else ()
            if code in (leaves + _TERMINATED if self.is_async else leaves):
                context.is_disconnect = True
            # A connection keeps the plans that it has prepared; a fresh one makes new ones.
            if self.driver.has_stale_plan(context.original_exception):
                context.is_disconnect = True

        if role == "migration" or (role == "reader" and settings.write_token_key is None):
            return
        before, has_written = self._before_first_statement(settings, role), self.driver.has_written

        def note(guard: StatementGuard, context: ExecutionContext) -> None:
            guard.began = True  # the driver begins with the first statement
            if not guard.has_written:
                guard.has_written = has_written(context)

        if role == "writer":
            hook_statements(engine, after=note)

        @event.listens_for(engine, "connect")
        def look_for_own_tables(connection: Any, record: ConnectionPoolEntry) -> None:
            # An application with tables of its own may have none.
            try:
                self.driver.watch_notices(connection)
                with closing(connection.cursor()) as cursor:
                    for statement in self.driver.batches([*before, _LOOK_FOR_OWN]):
                        cursor.execute(statement)
                    found = {name: own for name, *own in cursor.fetchall()}
                    server = found.pop(None)[0]
                    if role == "writer":  # the reader's may be any
                        record.info[SERVER] = server
                    if settings.commit_witness and "commit_witness" in found:
                        _, table, writes_unseen = found["commit_witness"]
                        row = MarkerRow(
                            uuid.uuid4().hex,
                            table,
                            self.driver.marker_sql(_TESTIFY, table=table),
                            self._reads(table),
                        )
                        # What a foreign table takes is reported as written rows, and is not written here.
                        if role == "writer" and self.driver.takes_marker_with_commit and not writes_unseen:
                            row.before_commit = self._before_commit(cursor, row)
                        record.info[self.marker_key] = row
                connection.rollback()
            except BaseException:
                connection.close()  # the pool does not, and the collector takes its time
                raise
            record.info[HOMES] = {name: schema for name, (schema, *_) in found.items()}

    def effect_of(self, sql: str) -> int:
        return POSTGRESQL.effect_of(sql)

    def is_idle(self, connection: Any) -> bool:
        return self.driver.is_idle(connection)

    def mark_transaction(self, connection: Connection) -> object:
        connection.exec_driver_sql(f"SAVEPOINT {_MARK}")
        return connection.exec_driver_sql(_BEGAN_AT).scalar()

    def is_marked(self, connection: Any, mark: object) -> bool:
        try:
            return bool(_scalar(connection, _BEGAN_AT) == mark)
        except _errors_of(connection) as error:
            if sqlstate_of(error) != _IN_FAILED_TRANSACTION:
                return True  # the connection is gone, and its transaction with it
        try:  # where it has failed this is all that it answers
            with closing(connection.cursor()) as cursor:
                cursor.execute(f"ROLLBACK TO SAVEPOINT {_MARK}")
        except _errors_of(connection) as error:
            return sqlstate_of(error) is None
        return True

    def server_pid(self, connection: Any) -> int | None:
        return self.driver.server_pid(connection)

    def list_sessions(self, connection: Connection, pids: Sequence[int]) -> list[ServerSession]:
        self.limit_statements(connection, 1.0)
        return [
            ServerSession(
                pid=row.pid,
                application=row.application_name or "",
                user=row.usename or "",
                state=row.state or "",
                state_s=None if row.state_s is None else float(row.state_s),
                waits_for=tuple(row.waits_for or ()),
                awaits_standby=bool(row.awaits_standby),
            )
            for row in connection.execute(_SESSIONS, {"pids": list(pids)})
        ]

    def takes_lock(self, connection: Connection, name: str) -> bool:
        key = int.from_bytes(blake2b(f"onfinish.{name}".encode(), digest_size=8).digest(), signed=True)
        taken = connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key})
        return bool(taken)

    def limit_statements(self, connection: Connection, timeout_s: float) -> None:
        milliseconds = max(1, int(timeout_s * 1000))
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")

    def ask_marker(self, connection: Connection, row: MarkerRow) -> str:
        # An insert, since the row in question may itself be of a transaction in flight: it waits for that.
        table = row.table.replace("%", "%%")
        found = connection.exec_driver_sql(
            f"INSERT INTO {table} (connection, transaction) VALUES (%s, %s)"  # noqa: S608  # quoted by the server
            " ON CONFLICT (connection) DO UPDATE SET update_time = now() RETURNING transaction",
            (row.name, _REFUSED),
        )
        return str(found.scalar_one())

    def refuse_marker(self, connection: Connection, row: MarkerRow) -> None:
        connection.exec_driver_sql(
            f"UPDATE {row.table.replace('%', '%%')}"  # noqa: S608  # as above
            " SET transaction = '-' || substr(transaction, 2) WHERE connection = %s",
            (row.name,),
        )

    def marker_does_not_follow(self, error: DBAPIError) -> bool:
        return sqlstate_of(error.orig) == _DIVISION_BY_ZERO

    def read_markers(self, connection: Connection, names: Sequence[str]) -> Mapping[str, str]:
        # The session's hooks have begun its transaction, and may have set another search path.
        row: MarkerRow | None = connection.info.get(self.marker_key)
        sql = self._reads("commit_witness") if row is None else row.look
        found = connection.exec_driver_sql(sql, (",".join(names),))
        return {row[0]: row[1] for row in found}

    def is_standby(self, connection: Connection) -> bool:
        return bool(connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one())

    def writes_unseen(self, connection: Connection) -> bool:
        # What a foreign table takes is written there, and leaves no transaction id here. dblink has a wrapper
        # of its own.
        found = connection.exec_driver_sql("SELECT EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper)")
        return bool(found.scalar_one())

    def commit_may_have_been_applied(self, error: DBAPIError) -> bool:
        code = sqlstate_of(error.orig)
        # A backend told to stop while it waits for a standby has committed already, and answers 57P01. One
        # whose statement is cancelled in that wait warns and commits: as an error, 57014 comes before.
        return code is None or (
            code[:2] in (_CONNECTION_EXCEPTION, _OPERATOR_INTERVENTION) and code != _QUERY_CANCELED
        )

    def is_read_only(self, connection: Connection) -> bool:
        return bool(connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on")

    def transaction_is_lost(self, connection: Any) -> bool:
        aborted = self.driver.is_aborted(connection)
        if aborted is not None:
            return aborted
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute("SELECT 1")
        except connection.dbapi.Error as error:
            if sqlstate_of(error) == _IN_FAILED_TRANSACTION:
                return True
            raise
        return False

    def says_transaction_is_lost(self, error: DBAPIError) -> bool:
        return sqlstate_of(error.orig) == _IN_FAILED_TRANSACTION

    def commit_with_marker(self, connection: Any, marker: str) -> None:
        self.driver.commit_with_marker(connection, marker)

    def marker_was_refused(self, connection: Any) -> bool:
        return self.driver.marker_was_refused(connection)

    def wait_was_cancelled(self, connection: Any) -> bool:
        return self.driver.wait_was_cancelled(connection)

    def why_no_commit(self, connection: Connection) -> str | None:
        read_only, hanging = connection.execute(_WHY_NO_COMMIT).one()
        if read_only == "on":
            return "the database takes no writes at the moment"
        return f"no COMMIT succeeds: {hanging} wait for a synchronous standby" if hanging else None

    def behind_s(self, connection: Connection) -> float | None:
        behind_s: float | None = connection.execute(_BEHIND).scalar_one()
        return behind_s

    def marker_parameters(self, connection: str, transaction: str) -> Any:
        return self.driver.marker_parameters(connection, transaction)

    def connection_errors(self) -> tuple[type[Exception], ...]:
        return self.driver.connection_errors()

    def cancel_statement(self, connection: Any) -> bool | Awaitable[bool] | None:
        return self.driver.cancel_statement(connection)

    def shutdown_socket(self, connection: Any) -> None:
        self.driver.shutdown_socket(connection)

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
        """The server settings of the operator, as they would stand on the server's command line."""
        return str(settings.connect_args.get("options", self.url.query.get("options")) or "")

    def _reads(self, table: str) -> str:
        spelt = self.driver.marker_sql("{table}", table=table)
        return _READ_MARKERS.format(names=self.driver.placeholder, table=spelt)

    def _before_commit(self, cursor: Any, row: MarkerRow) -> tuple[str, str]:
        """See `MarkerRow.before_commit`. Its plan is made here: it would be half of what the marker costs."""
        sql = _TESTIFY_WITH_COMMIT.format(table=row.table, connection=row.name)
        if self.cannot_change_session:
            first, _, last = sql.rpartition("$1")
            return f"{first}'", f"'{last}"
        cursor.execute(f"PREPARE commit_witness (text) AS {sql}")
        return "EXECUTE commit_witness ('", "')"

    def _before_first_statement(self, settings: DatabaseSettings, role: Role) -> list[str]:
        """Statements that are sent with the first one of each transaction."""
        return []


_DRIVERS: dict[str, type[PostgresDriver]] = {"psycopg2": Psycopg2, "psycopg": Psycopg, "asyncpg": Asyncpg}

_ON_LOOP: dict[str, type[PostgresDriver]] = {"psycopg2": Psycopg2OnLoop}
"""Those that can do without threads as well."""

AUTO: ExecutorName = "greenlets"
"""What they are used in unless the settings say. A statement in a greenlet takes half of the CPU; a handler
may ask for threads, and COPY takes the setting."""


def _errors_of(connection: Any) -> type[Exception]:
    errors: type[Exception] = getattr(connection, "dbapi", connection).Error  # an adapter has its module's
    return errors


def _scalar(connection: Any, sql: str) -> object:
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def sqlstate_of(error: object) -> str | None:
    """PostgreSQL's code for an error; None for one of the driver's own."""
    code: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code


def _discard_changed(engine: Engine, driver: PostgresDriver) -> None:
    """Discard a connection of the reader that does not come back as it was made.

    Its units of work send no ROLLBACK, and in AUTOCOMMIT the driver's does nothing: a transaction that model
    code began by a statement of its own would be the next reader's too, and so would an error in it.
    Both questions are answered by the driver, without a round trip.
    """

    @event.listens_for(engine, "connect")
    def note(connection: Any, record: ConnectionPoolEntry) -> None:
        # PostgreSQL 14 and newer report it; before that it is None at both times.
        record.info[READ_ONLY_DEFAULT] = driver.parameter(connection, READ_ONLY_DEFAULT)

    @event.listens_for(engine, "checkin")
    def compare(connection: Any, record: ConnectionPoolEntry) -> None:
        if connection is not None and (
            not driver.is_idle(connection)
            or driver.parameter(connection, READ_ONLY_DEFAULT) != record.info.get(READ_ONLY_DEFAULT)
        ):
            record.invalidate()
