"""MySQL and MariaDB through PyMySQL."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, PoolProxiedConnection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from conf import DatabaseSettings
from db.backend import MIGRATION_STATEMENT_TIMEOUT_S, Backend, ExecutorName, Role, ServerSession
from db.backends.effects import MYSQL
from db.constraints import refused_by, table_of
from db.errors import (
    CERTIFICATION,
    ConnectionLost,
    DatabaseError,
    DeadlinePassed,
    NotInSchema,
    RetryableConflict,
    StatementFailed,
    Unavailable,
    Unreachable,
)
from db.guard import OWN, guard_of

# Most numbers mean the same on both: https://mariadb.com/docs/server/reference/error-codes
# https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_DUPLICATE = 1062
_NOT_NULL = {
    1048,  # NULL where there must be a value
    1364,  # no value, and no default
}
_CHECK = {
    4025,  # MariaDB
    3819,  # MySQL
}
_CONSTRAINT = {
    _DUPLICATE,
    *_NOT_NULL,
    1451,  # a row that is referred to
    1452,  # a row that refers to nothing
    *_CHECK,
}
_ROLLED_BACK = {
    1213: "deadlock",
    1020: "serialization",  # MariaDB, with innodb_snapshot_isolation: the row has changed since it was read
}
_LOCK_WAIT_TIMEOUT = {1205, 3572}
_INTERRUPTED = {1317, 1969, 3024}  # KILL QUERY, MariaDB's max_statement_time, MySQL's max_execution_time
_READ_ONLY_TRANSACTION = 1792
_READ_ONLY_SERVER = {1290, 1836, _READ_ONLY_TRANSACTION}
_CONNECTION_ENDED = {1053, 1152, 1927, 2006, 2013, 2055, 4031}
_NOT_NOW = {
    *_CONNECTION_ENDED,
    1021,  # disk full
    1037,  # out of memory
    1040,  # too many connections
    1041,
    1114,  # table full
    1129,  # host blocked
    1203,  # too many connections of this user
    1226,
}
_NOT_IN_SCHEMA = {1146, 1054}  # a table, a column
# Galera: the node joins its cluster, or is alone without a quorum. It refuses each command before it begins.
# https://galeracluster.com/library/documentation/reset-quorum.html
_NODE_NOT_READY = 1047
# Galera: the node lost its cluster while it sent a transaction, which the others may have.
_FAILED_COMMIT = 1180
_WSREP_ON, _ON = "SHOW VARIABLES LIKE 'wsrep_on'", (("wsrep_on", "ON"),)
_CLIENT_ERRORS = range(2000, 3000)  # PyMySQL's own: the link failed, or was never made
_NO_ACCESS = {1044, 1045, 1049, 1130, 1698}

_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS

_CANCEL_TIMEOUT_S = 0.25
"""How long each step of a cancel may take: two of them where there is no answer."""

_READ_MARGIN_S = 10.0
"""How much longer than a statement may run its answer is waited for, before the link counts as dead."""

_SSL_QUERY = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_HOST_QUERY = ("host", "target_session_attrs")
PORT = 3306
_AVOIDED_S = 10.0
"""How long a host that could not be used is tried after all others."""

_WAITS_OF_MARIADB = """
    SELECT waiter.trx_mysql_thread_id, holder.trx_mysql_thread_id FROM information_schema.innodb_lock_waits
    JOIN information_schema.innodb_trx waiter ON waiter.trx_id = requesting_trx_id
    JOIN information_schema.innodb_trx holder ON holder.trx_id = blocking_trx_id
"""
_WAITS_OF_MYSQL = """
    SELECT waiter.processlist_id, holder.processlist_id FROM performance_schema.data_lock_waits
    JOIN performance_schema.threads waiter ON waiter.thread_id = requesting_thread_id
    JOIN performance_schema.threads holder ON holder.thread_id = blocking_thread_id
"""
_SESSIONS = """
    SELECT p.id, p.user, p.command, p.time, t.trx_id IS NOT NULL AS open, '' AS program
    FROM information_schema.processlist p
    LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id
"""


class MySQL(Backend):
    """MariaDB 10.6 and newer, MySQL 8.0 and newer.

    READ COMMITTED instead of their REPEATABLE READ, as everywhere else here: a statement sees what has been
    committed when it begins. A deadlock makes them roll back the whole transaction, and any DDL commits
    it: both are noticed, for the driver would go on as if nothing had happened. There are no commit
    markers: a transaction cannot be asked whether it has written, and a COMMIT without an answer is unknown.
    """

    drivers = ("pymysql",)
    snapshot_options = MappingProxyType({"isolation_level": "REPEATABLE READ"})
    isolation_is_a_transactions = True
    why_no_sessions = ""

    def __init__(self, url: URL, executor: ExecutorName = "auto") -> None:
        super().__init__(url, executor)
        self._rolled_back: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_galera: bool | None = None  # until a server was asked

    def engine_url(self) -> URL:
        url = self.url.difference_update_query((*_SSL_QUERY, *_HOST_QUERY))
        host, port = hosts_of(self.url)[0]
        return url.set(host=host, port=port)

    def connect_args(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "connect_timeout": settings.connect_timeout_s,
            # Four bytes a character; what they call utf8 has three.
            "charset": "utf8mb4",
            # PyMySQL's connect_timeout ends with TCP's handshake, and the server's comes after it.
            "read_timeout": settings.connect_timeout_s,
            "write_timeout": settings.connect_timeout_s,
        }
        if "unix_socket" not in self.url.query:
            arguments |= _tls(self.url.query)
        for name in self.engine_url().query:
            arguments.pop(name, None)
        return arguments | settings.connect_args

    def engine_options(self, settings: DatabaseSettings, role: Role) -> dict[str, Any]:
        if role == "migration":
            return {"poolclass": NullPool}
        if role == "reader":
            # PyMySQL would send a ROLLBACK, of which nothing comes, each time a connection is checked in.
            return {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
        return {}

    def install(self, engine: Engine, settings: DatabaseSettings, role: Role) -> None:
        if len(hosts_of(self.url)) > 1 or "target_session_attrs" in self.url.query:
            _choose_host(engine, self.url)

        @event.listens_for(engine, "connect")
        def prepare_connection(connection: Any, record: object) -> None:
            try:
                _keep_alive(connection)
                self._set_answer_timeout(connection, settings, role)
                with connection.cursor() as cursor:
                    for statement in _session(settings, role, mariadb="MariaDB" in connection.server_version):
                        cursor.execute(statement)
                    if self._is_galera is None:
                        self._is_galera = _is_node(cursor)
            except BaseException:
                # The pool may close it, or leave it to the collector; the second `close` would raise.
                connection._force_close()
                raise

        _leave_server_of_no_use(engine)
        _accept_rollback_of_what_is_rolled_back(engine)
        if role == "writer":
            self._keep_to_one_transaction(engine)
        elif role == "reader":
            _discard_changed(engine)

    def _set_answer_timeout(self, connection: Any, settings: DatabaseSettings, role: Role) -> None:
        """How long an answer is waited for, from now on: MySQL's own time limit is for SELECT alone."""
        limit_s: float | None = None
        if role != "migration" and settings.statement_timeout_s is not None:
            limit_s = settings.statement_timeout_s + _READ_MARGIN_S
        for name in ("read_timeout", "write_timeout"):
            if name not in settings.connect_args and name not in self.url.query:
                setattr(connection, f"_{name}", limit_s)  # there is no public way to it

    def _keep_to_one_transaction(self, engine: Engine) -> None:
        """Notice that the transaction has ended, by a deadlock or by a statement: the next begins another.

        What comes after it would be committed without what came before, unnoticed.
        """

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            self._rolled_back.discard(connection.connection.dbapi_connection)
            # A round trip, and without it there would be no telling: PyMySQL takes the state of the
            # transaction from the answers to commands, and not from those that are rows.
            connection.exec_driver_sql("START TRANSACTION", execution_options={OWN: True})
            guard = guard_of(connection)
            if guard is not None:
                guard.began = True

        @event.listens_for(engine, "handle_error")
        def note_rollback(context: ExceptionContext) -> None:
            connection = context.connection
            if connection is not None and _code(context.original_exception) in _ROLLED_BACK:
                self._rolled_back.add(connection.connection.dbapi_connection)

        @event.listens_for(engine, "before_cursor_execute")
        def before_cursor_execute(connection: Connection, *statement: object) -> None:
            guard = guard_of(connection)
            if guard is not None and connection.connection.dbapi_connection in self._rolled_back:
                raise guard.lost()

        @event.listens_for(engine, "after_cursor_execute")
        def after_cursor_execute(connection: Connection, *statement: object) -> None:
            guard = guard_of(connection)
            if guard is not None and not _is_in_transaction(connection.connection.dbapi_connection):
                guard.ended = "a statement (on MySQL and MariaDB every DDL does)"
                raise guard.ended_error()

    def translate(self, error: DBAPIError) -> DatabaseError:
        code = _code(error.orig)
        if code in _CONSTRAINT:
            fault = str(code) if code in _NOT_NULL | _CHECK else None
            return refused_by(_constraint_of(error), table=table_of(error), fault=fault)
        if code in _ROLLED_BACK:
            return RetryableConflict(CERTIFICATION if self._is_galera else _ROLLED_BACK[code])
        if code in _LOCK_WAIT_TIMEOUT:
            return Unavailable("could not acquire a lock in time")
        if code in _INTERRUPTED:
            return DeadlinePassed()
        if code == _NODE_NOT_READY:
            return Unreachable("the database's node is not ready", retry_after_s=2)
        if code in _READ_ONLY_SERVER:
            return Unavailable("the database takes no writes at the moment", retry_after_s=5)
        if error.connection_invalidated:
            return ConnectionLost()
        if code in _NOT_NOW:
            return Unreachable("the database cannot be worked with at the moment", retry_after_s=2)
        if code in _NO_ACCESS or code in _CLIENT_ERRORS:
            return Unreachable("the database cannot be reached")
        if code in _NOT_IN_SCHEMA:
            return NotInSchema(str(code))
        return StatementFailed(str(code or type(error.orig).__name__))

    def refuses_write(self, error: DBAPIError) -> bool:
        return _code(error.orig) == _READ_ONLY_TRANSACTION

    def commit_may_have_been_applied(self, error: DBAPIError) -> bool:
        code = _code(error.orig)
        if code == _NODE_NOT_READY or code in _READ_ONLY_SERVER:
            return False  # refused, and rolled back
        return error.connection_invalidated or code in {0, *_CONNECTION_ENDED, *_CLIENT_ERRORS}

    def is_read_only(self, connection: Connection) -> bool:
        name = "tx_read_only" if getattr(connection.dialect, "is_mariadb", False) else "transaction_read_only"
        return bool(connection.exec_driver_sql(f"SELECT @@{name}").scalar())

    def effect_of(self, sql: str) -> int:
        return MYSQL.effect_of(sql)

    def takes_lock(self, connection: Connection, name: str) -> bool:
        # The server's own, for all its databases. A connection that has one is closed, see `effect_of`.
        lock = text("SELECT GET_LOCK(CONCAT('onfinish.', SHA1(CONCAT(DATABASE(), '.', :name))), 0)")
        return bool(connection.scalar(lock, {"name": name}))

    def is_idle(self, connection: Any) -> bool:
        return connection not in self._rolled_back and not _is_in_transaction(connection)

    def transaction_is_lost(self, connection: Any) -> bool:
        return connection in self._rolled_back or not _is_in_transaction(connection)

    def server_pid(self, connection: Any) -> int | None:
        return int(connection.thread_id()) if connection.open else None

    def list_sessions(self, connection: Connection, pids: Sequence[int]) -> list[ServerSession]:
        mariadb = "MariaDB" in connection.connection.dbapi_connection.server_version  # type: ignore[union-attr]
        connection.exec_driver_sql(
            "SET SESSION max_statement_time = 1" if mariadb else "SET SESSION max_execution_time = 1000"
        )
        waits: dict[int, list[int]] = {}
        for waiter, holder in connection.exec_driver_sql(_WAITS_OF_MARIADB if mariadb else _WAITS_OF_MYSQL):
            waits.setdefault(waiter, []).append(holder)
        wanted, left = set(pids), list(pids)
        while left:
            found = {holder for holder in waits.get(left.pop(), ()) if holder not in wanted}
            wanted |= found
            left += found
        return [
            ServerSession(
                pid=row.id,
                application=row.program or "",
                user=row.user or "",
                state="active" if row.command == "Query" else "idle in transaction" if row.open else "idle",
                state_s=float(row.time),
                waits_for=tuple(dict.fromkeys(waits.get(row.id, ()))),
            )
            for row in connection.exec_driver_sql(_SESSIONS)
            if row.id in wanted
        ]

    def cancel_statement(self, connection: Any) -> bool:
        # Only another connection can do it. Made with the same arguments by hand, it cannot hang for longer.
        arguments: dict[str, Any] = {
            "host": connection.host,
            "port": connection.port,
            "user": connection.user,
            "password": connection.password,
            "unix_socket": connection.unix_socket,
            "connect_timeout": _CANCEL_TIMEOUT_S,
            "read_timeout": _CANCEL_TIMEOUT_S,
            "write_timeout": _CANCEL_TIMEOUT_S,
        }
        # What the connection itself has come to: what it was made with may be a mere preference.
        encrypted = isinstance(connection._sock, ssl.SSLSocket)
        arguments |= {"ssl": connection.ctx} if encrypted else {"ssl_disabled": True}
        try:
            with contextlib.closing(type(connection)(**arguments)) as own:
                own.query(f"KILL QUERY {connection.thread_id()}")
        except (connection.Error, OSError):
            return False
        return True

    def shutdown_socket(self, connection: Any) -> None:
        # As with psycopg2: close() would wait for the thread that hangs on it.
        link = connection._sock  # PyMySQL has no public way to it
        if link is None:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(link.fileno())) as own,
        ):
            own.shutdown(socket.SHUT_RDWR)


def is_galera(connection: Connection) -> bool:
    """Whether a connection is to a node of a Galera cluster; asks the server, where it may be one."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        return False
    return tuple(connection.exec_driver_sql(_WSREP_ON).all()) == _ON


def _code(error: BaseException | None) -> int:
    """The number of a driver's error; 0 where it has none."""
    first = error.args[0] if error is not None and error.args else 0
    return first if isinstance(first, int) else 0


def _is_in_transaction(connection: Any) -> bool:
    return bool(connection.server_status & _IN_TRANSACTION)


def _session(settings: DatabaseSettings, role: Role, *, mariadb: bool) -> list[str]:
    """What a new connection is set to, in two statements."""
    characteristics = "ISOLATION LEVEL READ COMMITTED" + (", READ ONLY" if role == "reader" else "")
    variables: dict[str, object] = {
        # CURRENT_TIMESTAMP is UTC, as in the code.
        "time_zone": "'+00:00'",
        # A value that does not fit is refused, not cut; whatever the server's own setting.
        "sql_mode": "CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION')",
        # The name of a constraint stands in the message alone, see _constraint_of.
        "lc_messages": "'en_US'",
    }
    if role == "migration":  # which sets its other limits by itself
        if mariadb:
            variables["max_statement_time"] = MIGRATION_STATEMENT_TIMEOUT_S
    else:
        if settings.statement_timeout_s is not None:
            if mariadb:
                variables["max_statement_time"] = settings.statement_timeout_s
            else:  # in milliseconds, and for SELECT alone
                variables["max_execution_time"] = round(settings.statement_timeout_s * 1000)
        if settings.lock_timeout_s is not None:
            seconds = max(1, round(settings.lock_timeout_s))
            variables |= {"innodb_lock_wait_timeout": seconds, "lock_wait_timeout": seconds}
        if settings.idle_in_transaction_timeout_s is not None and mariadb:
            variables["idle_transaction_timeout"] = max(1, round(settings.idle_in_transaction_timeout_s))
        if settings.wsrep_sync_wait and role == "reader" and mariadb:
            variables["wsrep_sync_wait"] = 1  # SELECT, SHOW and BEGIN
        if settings.idle_session_timeout_s is not None:
            variables["wait_timeout"] = max(1, round(settings.idle_session_timeout_s))
    assignments = ", ".join(f"{name} = {value}" for name, value in variables.items())
    return [f"SET SESSION TRANSACTION {characteristics}", f"SET SESSION {assignments}"]


def _keep_alive(connection: Any) -> None:
    """A link that went down without notice is noticed in half a minute, as on PostgreSQL."""
    link = connection._sock
    if link.family == socket.AF_UNIX:
        return
    for name, value in (
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 30_000),
    ):
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            link.setsockopt(socket.IPPROTO_TCP, option, value)


def _discard_changed(engine: Engine) -> None:
    """Discard a connection of the reader that is checked in within a transaction: nothing would end that."""

    @event.listens_for(engine, "checkin")
    def compare(connection: Any, record: ConnectionPoolEntry) -> None:
        if connection is not None and _is_in_transaction(connection):
            record.invalidate()


def hosts_of(url: URL) -> list[tuple[str | None, int | None]]:
    """The hosts of a URL, as PostgreSQL's have them: ``?host=a:3306&host=b``, or ``//a,b:3306/``."""
    given = url.query.get("host", ())
    found: list[tuple[str | None, int | None]] = []
    for each in [given] if isinstance(given, str) else given:
        host, colon, port = each.rpartition(":")
        found.append((host.strip("[]"), int(port)) if colon and port.isdecimal() else (each, url.port))
    return found or [(host, url.port) for host in (url.host or "").split(",")]


def _choose_host(engine: Engine, url: URL) -> None:
    """Connect to the first host that takes writes, each with the whole connect time-out for itself.

    One that was of no use is tried last for a while: a host that hangs costs its time-out each time.

    Raises:
        ValueError: ``target_session_attrs`` is neither read-write nor any.
    """
    wanted = url.query.get("target_session_attrs", "read-write")
    if wanted not in ("read-write", "any"):
        raise ValueError(f"target_session_attrs {wanted!r} is not known here: read-write or any")
    hosts, failed_at = hosts_of(url), dict[tuple[str | None, int | None], float]()
    connect, refused = engine.dialect.connect, engine.dialect.loaded_dbapi.OperationalError

    def connect_to_one(*arguments: Any, **options: Any) -> Any:
        since = time.monotonic() - _AVOIDED_S
        fault: Exception | None = None
        for at in sorted(hosts, key=lambda host: failed_at.get(host, since) > since):
            own = {"host": at[0] or "localhost", "port": at[1] or PORT}
            try:
                connection = connect(*arguments, **(options | own))
                try:
                    _require_use(connection, refused, writes=wanted == "read-write")
                except BaseException:
                    connection._force_close()
                    raise
            except refused as error:
                failed_at[at] = time.monotonic()
                # That of a host which answers tells more.
                if fault is None or _code(error) not in _CLIENT_ERRORS:
                    fault = error
            else:
                failed_at.pop(at, None)
                return connection
        raise fault or refused()  # there is a host, so there is a fault

    engine.dialect.connect = connect_to_one  # type: ignore[method-assign]


def _require_use(connection: Any, refused: type[Exception], *, writes: bool) -> None:
    """Raise what a server would answer that is of no use now: a node without its cluster; a read-only one."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep_ready'")
        if cursor.fetchall() == (("wsrep_ready", "OFF"),) and _is_node(cursor):
            raise refused(_NODE_NOT_READY, "the node is not ready")
        if writes:
            cursor.execute("SELECT @@read_only")
            if cursor.fetchone()[0]:
                raise refused(1290, "the server is read-only")


def _is_node(cursor: Any) -> bool:
    cursor.execute(_WSREP_ON)
    return bool(cursor.fetchall() == _ON)


def _leave_server_of_no_use(engine: Engine) -> None:
    """Drop the connections to a node that has left its cluster, or to a server that has become read-only.

    Another host may be of use, or a proxy, asked anew, may name another. Such a node refuses a ROLLBACK as
    well; it undoes the work when its connection is closed.
    """

    @event.listens_for(engine, "handle_error")
    def leave(context: ExceptionContext) -> None:
        code = _code(context.original_exception)
        if code in {_NODE_NOT_READY, _FAILED_COMMIT, *_READ_ONLY_SERVER} and code != _READ_ONLY_TRANSACTION:
            context.is_disconnect = True


def _accept_rollback_of_what_is_rolled_back(engine: Engine) -> None:
    """Ask once more for a ROLLBACK that was answered as a deadlock.

    Galera rolls a transaction back for another node's (a brute-force abort), and answers the next command
    with 1213, whichever that is. The one after it is done.
    """
    rollback = engine.dialect.do_rollback

    def do_rollback(connection: PoolProxiedConnection) -> None:
        try:
            rollback(connection)
        except engine.dialect.loaded_dbapi.OperationalError as error:
            if _code(error) not in _ROLLED_BACK:
                raise
            rollback(connection)

    engine.dialect.do_rollback = do_rollback  # type: ignore[method-assign,assignment]


def _tls(query: Mapping[str, Any]) -> dict[str, Any]:
    """PyMySQL's arguments for libpq's words, which the settings of an environment are written in.

    https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION

    Raises:
        ValueError: there is no such ``sslmode``.
    """
    mode = query.get("sslmode")
    if mode is None or mode in ("allow", "prefer"):
        return {}
    if mode == "disable":
        return {"ssl_disabled": True}
    if mode not in ("require", "verify-ca", "verify-full"):
        raise ValueError(f"sslmode {mode!r} is not known: disable, prefer, require, verify-ca or verify-full")
    context = ssl.create_default_context(cafile=query.get("sslrootcert"))
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in query:
        context.load_cert_chain(query["sslcert"], query.get("sslkey"))
    return {"ssl": context}


_KEY = re.compile(r" for key '(?:(?P<table>[^'.]+)\.)?(?P<name>[^']+)'$")
_NAMED = re.compile(r"CONSTRAINT `(?:[^`]*`\.`)*([^`]+)`|[Cc]heck constraint '([^']+)'")
_COLUMN = re.compile(r"^(?:Column|Field) '([^']+)'")


def _constraint_of(error: DBAPIError) -> str | None:
    """The name of the constraint that refused a row.

    The protocol has no field for it, and GET DIAGNOSTICS answers with nothing: it stands in the message
    alone, whose form is fixed in the server's source (share/errmsg-utf8.txt, in the language that the
    connection has asked for). Where it ever changes, the refusal falls back to the general sentence.
    Data stands before the name, so the end is what counts. A primary key has no name of its own.
    """
    message = str(error.orig.args[1]) if error.orig is not None and len(error.orig.args) > 1 else ""
    if _code(error.orig) in _NOT_NULL:
        column = _COLUMN.match(message)
        return "NOT NULL " + ".".join(filter(None, (table_of(error), column and column[1])))
    if _code(error.orig) != _DUPLICATE:
        named = _NAMED.search(message)
        return named and (named[1] or named[2])
    key = _KEY.search(message)
    if key is None or key["name"] != "PRIMARY":
        return key and key["name"]
    table = key["table"] or table_of(error)
    return f"pk_{table}" if table else None
