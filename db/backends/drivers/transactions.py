"""psycopg2's connections, with BEGIN in one string with a transaction's first statement: a round trip less.

psycopg2 sends BEGIN by itself, and waits for its answer. To it these connections are in autocommit, where its
own commit and rollback do nothing; so transactions, with their levels and modes, are begun and ended here.
https://www.psycopg.org/docs/usage.html#transactions-control
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg2
from psycopg2 import errors, extensions

from db.backends.drivers.notices import watch_libpq

_IDLE = extensions.TRANSACTION_STATUS_IDLE
_IN_TRANSACTION = (extensions.TRANSACTION_STATUS_INTRANS, extensions.TRANSACTION_STATUS_INERROR)
_AUTOCOMMIT: Any = extensions.connection.autocommit  # a descriptor, in the class
_ABORTED = "25P02"  # in_failed_sql_transaction

_LEVELS = {
    extensions.ISOLATION_LEVEL_READ_UNCOMMITTED: "READ UNCOMMITTED",
    extensions.ISOLATION_LEVEL_READ_COMMITTED: "READ COMMITTED",
    extensions.ISOLATION_LEVEL_REPEATABLE_READ: "REPEATABLE READ",
    extensions.ISOLATION_LEVEL_SERIALIZABLE: "SERIALIZABLE",
}


class Cursor(extensions.cursor):
    """A cursor whose first statement takes BEGIN along. Lives as any cursor."""

    connection: TransactionConnection
    _rows: int | None = None

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002  # psycopg2's name
        """As psycopg2's."""
        self._rows = None
        connection = self.connection
        begin = connection.begin_of_next()
        if not begin:
            super().execute(query, vars)
            connection.wait()
            return
        if isinstance(query, bytes):
            first: str | bytes = begin.encode() + b"; " + query
        else:
            first = f"{begin}; {query if isinstance(query, str) else query.as_string(connection)}"
        try:
            super().execute(first, vars)
            connection.wait()
        except psycopg2.Error as error:
            connection.note_failed_begin(error)
            raise

    def executemany(self, query: Any, vars_list: Iterable[Any]) -> None:
        """As psycopg2's: a statement for each."""
        rows = 0
        for each in vars_list:
            self.execute(query, each)
            rows += max(0, super().rowcount)
        self._rows = rows

    def callproc(self, procname: Any, parameters: Any = None) -> Any:
        """As psycopg2's."""
        self.connection.begin()
        result = super().callproc(procname, *(() if parameters is None else (parameters,)))
        self.connection.wait()
        return result

    @property
    def rowcount(self) -> int:
        """As psycopg2's."""
        return super().rowcount if self._rows is None else self._rows

    def copy_expert(self, *args: Any, **kwargs: Any) -> None:
        """As psycopg2's."""
        self.connection.begin_by_itself("COPY")
        super().copy_expert(*args, **kwargs)

    def copy_from(self, *args: Any, **kwargs: Any) -> None:
        """As psycopg2's."""
        self.connection.begin_by_itself("COPY")
        super().copy_from(*args, **kwargs)

    def copy_to(self, *args: Any, **kwargs: Any) -> None:
        """As psycopg2's."""
        self.connection.begin_by_itself("COPY")
        super().copy_to(*args, **kwargs)


class NamedCursor(Cursor):
    """A server-side cursor: psycopg2's own refuses a connection that it takes for one in autocommit."""

    itersize = 2000
    scrollable: bool | None = None
    withhold = False
    _name = ""
    _is_declared = False

    @property
    def name(self) -> str:
        """Its name at the server."""
        return self._name

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002  # psycopg2's name
        """Declare it."""
        connection = self.connection
        if self._is_declared:
            raise psycopg2.ProgrammingError("can't call .execute() on named cursors more than once")
        if connection.autocommit and not self.withhold and connection.get_transaction_status() == _IDLE:
            raise psycopg2.ProgrammingError("can't use a named cursor outside of transactions")
        if isinstance(query, bytes):
            query = query.decode(extensions.encodings[connection.encoding])
        elif not isinstance(query, str):
            query = query.as_string(connection)
        scroll = {None: "", True: "SCROLL ", False: "NO SCROLL "}[self.scrollable]
        hold = "WITH" if self.withhold else "WITHOUT"
        super().execute(f"DECLARE {self._quoted} {scroll}CURSOR {hold} HOLD FOR {query}", vars)
        self._is_declared = True

    def fetchone(self) -> Any:
        """As psycopg2's."""
        self._fetch("1")
        return super().fetchone()

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """As psycopg2's."""
        self._fetch(str(self.arraysize if size is None else size))
        return super().fetchall()

    def fetchall(self) -> list[Any]:
        """As psycopg2's."""
        self._fetch("ALL")
        return super().fetchall()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # that is what it is
        while rows := self.fetchmany(self.itersize):
            yield from rows

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def scroll(self, value: int, mode: str = "relative") -> None:
        """As psycopg2's."""
        how = {"relative": "RELATIVE", "absolute": "ABSOLUTE"}[mode]
        super().execute(f"MOVE {how} {int(value)} FROM {self._quoted}")

    def close(self) -> None:
        """Close it at the server, where it is still there."""
        if self._is_declared and not self.closed:
            self._is_declared = False
            status = self.connection.get_transaction_status()
            if status == extensions.TRANSACTION_STATUS_INTRANS or (self.withhold and status == _IDLE):
                super().execute(f"CLOSE {self._quoted}")
        super().close()

    @property
    def _quoted(self) -> str:
        return extensions.quote_ident(self._name, self.connection)

    def _fetch(self, count: str) -> None:
        super().execute(f"FETCH FORWARD {count} FROM {self._quoted}")


@functools.cache
def derived(base: type[Any], other: type[Any]) -> type[Any]:
    """A class of ours that is also of a class of psycopg2's, or of a program's."""
    return base if issubclass(base, other) else type(f"{base.__name__}{other.__name__}", (base, other), {})


class TransactionConnection(extensions.connection):
    """A connection whose transactions are begun with their first statement. Lives until it is closed.

    ``has_failed``: the first statement failed before the BEGIN ran that was sent with it: of this transaction
    the server knows nothing, and would refuse nothing in it.
    """

    has_failed = False
    _autocommit = False
    _level: int | None = None
    _readonly: bool | None = None
    _deferrable: bool | None = None
    _begin = "BEGIN"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        watch_libpq(self.pgconn_ptr)

    # -- the one place where a transaction begins

    def begin_of_next(self) -> str:
        """The statement that begins a transaction before the next one; empty where there is none to begin.

        Raises:
            InFailedSqlTransaction: the one that there is has failed before the server knew of it.
        """
        if self._autocommit or self.get_transaction_status() != _IDLE:
            return ""
        if self.has_failed:
            raise _error_of(
                _ABORTED, "current transaction is aborted, commands ignored until end of transaction block"
            )
        return self._begin

    def begin(self) -> None:
        """Begin a transaction where one is to begin, for what is no text that BEGIN could stand in."""
        if begin := self.begin_of_next():
            self._run(begin)

    def begin_by_itself(self, what: str) -> None:
        """As `begin`, for what takes the connection over."""
        self.begin()

    def note_failed_begin(self, error: psycopg2.Error) -> None:
        """Note an error of the server's in a string that began with BEGIN."""
        if error.pgcode is not None and self.get_transaction_status() == _IDLE:
            self.has_failed = True

    # -- the one place where it ends

    def commit(self, marker: str = "") -> None:
        """As psycopg2's; an aborted transaction raises, where the server would answer ROLLBACK.

        Args:
            marker: a statement that goes before COMMIT, in one string. Where the server refuses that, COMMIT
                does not run, and the transaction is open and aborted.
        """
        self._check_open()
        if self._autocommit:
            return
        if self.has_failed or self.get_transaction_status() == extensions.TRANSACTION_STATUS_INERROR:
            raise _error_of(_ABORTED, "the transaction had been aborted")
        if self.get_transaction_status() != _IDLE:
            tag = self._end("COMMIT", marker)
            if tag != "COMMIT":
                raise _error_of(_ABORTED, f"the transaction had been aborted: {tag}")

    def rollback(self) -> None:
        """As psycopg2's."""
        self._check_open()
        self.has_failed = False
        if not self._autocommit and self.get_transaction_status() != _IDLE:
            self._end("ROLLBACK", "")

    def _end(self, how: str, marker: str) -> str:
        return self._run(f"{marker}; {how}" if marker else how)

    def __enter__(self) -> Any:
        # psycopg2's own would send a BEGIN.
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    # -- what its transactions are like

    def reset(self) -> None:
        """As psycopg2's: the session as it was made."""
        self.rollback()
        self.set_session(
            isolation_level="DEFAULT", readonly="DEFAULT", deferrable="DEFAULT", autocommit=False
        )
        self._run("RESET ALL")
        self._run("SET SESSION AUTHORIZATION DEFAULT")

    @property
    def status(self) -> int:
        """As psycopg2's."""
        is_begun = self.get_transaction_status() in _IN_TRANSACTION
        return extensions.STATUS_BEGIN if is_begun and not self._autocommit else super().status

    @property
    def autocommit(self) -> bool:
        """Whether statements are each for themselves."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self.set_session(autocommit=value)

    @property
    def isolation_level(self) -> int | None:
        """As psycopg2's."""
        return self._level

    @isolation_level.setter
    def isolation_level(self, value: Any) -> None:
        self.set_session(isolation_level="DEFAULT" if value is None else value)

    def set_isolation_level(self, level: int | None) -> None:
        """As psycopg2's: 0 is autocommit, and a transaction that is open is rolled back."""
        self.rollback()
        if level == extensions.ISOLATION_LEVEL_AUTOCOMMIT:
            self._autocommit = True
        else:
            self.set_session(isolation_level="DEFAULT" if level is None else level, autocommit=False)

    @property
    def readonly(self) -> bool | None:
        """As psycopg2's."""
        return self._readonly

    @readonly.setter
    def readonly(self, value: Any) -> None:
        self.set_session(readonly="DEFAULT" if value is None else value)

    @property
    def deferrable(self) -> bool | None:
        """As psycopg2's."""
        return self._deferrable

    @deferrable.setter
    def deferrable(self, value: Any) -> None:
        self.set_session(deferrable="DEFAULT" if value is None else value)

    def set_session(
        self,
        isolation_level: Any = None,
        readonly: Any = None,
        deferrable: Any = None,
        autocommit: Any = None,
    ) -> None:
        """As psycopg2's, but for autocommit with a level: that holds for transactions alone."""
        if self.get_transaction_status() in _IN_TRANSACTION:
            raise psycopg2.ProgrammingError("set_session cannot be used inside a transaction")
        if isolation_level is not None:
            self._level = _level_of(isolation_level)
        if readonly is not None:
            self._readonly = _flag_of(readonly)
        if deferrable is not None:
            self._deferrable = _flag_of(deferrable)
        if autocommit is not None:
            self._autocommit = bool(autocommit)
        parts = ["BEGIN"]
        if self._level is not None:
            parts.append(f"ISOLATION LEVEL {_LEVELS[self._level]}")
        if self._readonly is not None:
            parts.append("READ ONLY" if self._readonly else "READ WRITE")
        if self._deferrable is not None:
            parts.append("DEFERRABLE" if self._deferrable else "NOT DEFERRABLE")
        self._begin = " ".join(parts)

    def _check_open(self) -> None:
        if self.closed:
            raise psycopg2.InterfaceError("connection already closed")

    # -- cursors

    def cursor(
        self,
        name: Any = None,
        cursor_factory: Any = None,
        withhold: bool = False,
        scrollable: bool | None = None,
    ) -> Any:
        """As psycopg2's."""
        own: Any = self.cursor_factory  # None, where none was set
        wanted = cursor_factory or own or extensions.cursor
        if name is None:
            return super().cursor(cursor_factory=derived(Cursor, wanted))
        named = super().cursor(cursor_factory=derived(NamedCursor, wanted))
        named._name, named.withhold, named.scrollable = name, withhold, scrollable
        return named

    def _run(self, sql: str) -> str:
        """Send statements without a result. Returns the server's tag for the last."""
        cursor = super().cursor(cursor_factory=extensions.cursor)
        cursor.execute(sql)
        self.wait()
        return str(cursor.statusmessage)

    def wait(self) -> None:
        """Wait for the answer to what was sent."""


class BlockingConnection(TransactionConnection):
    """One that blocks its thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            self.close()  # this frame, in the error's traceback, keeps it
            raise
        self._leave_transactions_to_psycopg2(False)

    def lobject(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg2's. It begins once more by itself, at which the server warns."""
        self.begin()
        if not self._autocommit:
            self._leave_transactions_to_psycopg2(True)
        return super().lobject(*args, **kwargs)

    def _leave_transactions_to_psycopg2(self, value: bool) -> None:
        _AUTOCOMMIT.__set__(self, not value)

    def _end(self, how: str, marker: str) -> str:
        if super(TransactionConnection, self).status != extensions.STATUS_BEGIN:
            return super()._end(how, marker)
        if marker:  # a large object's transaction is psycopg2's
            self._run(marker)
        if how == "COMMIT":
            extensions.connection.commit(self)
        else:
            extensions.connection.rollback(self)
        self._leave_transactions_to_psycopg2(False)
        return how


def _error_of(sqlstate: str, message: str) -> psycopg2.Error:
    """An error as the server's under that code."""
    error: psycopg2.Error = errors.lookup(sqlstate)(message)
    error.__setstate__({"pgcode": sqlstate, "pgerror": message})  # type: ignore[no-untyped-call]
    return error


def _level_of(given: Any) -> int | None:
    if isinstance(given, str):
        wanted = given.upper()
        if wanted == "DEFAULT":
            return None
        for level, name in _LEVELS.items():
            if name == wanted:
                return level
    elif given in _LEVELS:
        return int(given)
    raise ValueError(f"bad value for isolation_level: {given!r}")


def _flag_of(given: Any) -> bool | None:
    return None if isinstance(given, str) and given.upper() == "DEFAULT" else bool(given)
