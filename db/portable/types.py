"""Types and expressions that a database spells its own way, for `db.base` to make tables of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    String,
    Table,
    TypeDecorator,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.base import MySQLDDLCompiler
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler, TypeCompiler
from sqlalchemy.sql.functions import FunctionElement

_MYSQL = ("mysql", "mariadb")

TABLE_OPTIONS = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
"""Whatever the server's own are: characters of four bytes, and 'a' is not 'A', as on the others."""


class JsonText(mysql.JSON):
    """JSON as text. MySQL's own JSON forgets the order, and how numbers were written; MariaDB's is this."""

    __visit_name__ = "JSON"


@compiles(JsonText)
def _json_text(element: JsonText, compiler: TypeCompiler, **options: Any) -> str:
    return "LONGTEXT"


MOMENT = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
"""With microseconds, which theirs has not by default."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware in Python, in UTC, with microseconds, whatever the database keeps it as.

    PostgreSQL keeps ``timestamptz`` and answers in the time zone of the connection; SQLite keeps text
    without a zone, which sorts right because it is always UTC and written in one format.
    """

    impl = MOMENT
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: use utc_now(), or datetime(…, tzinfo=UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now(FunctionElement[datetime]):  # named as SQLAlchemy names SQL functions
    """The database's clock, in the format of `UtcDateTime`: the default of rows that raw SQL inserts."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(now)
def _now(element: now, compiler: SQLCompiler, **options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(now, *_MYSQL)
def _now_on_mysql(element: now, compiler: SQLCompiler, **options: Any) -> str:
    return "CURRENT_TIMESTAMP(6)"  # the default of a column has to have as many digits as the column


@compiles(now, "sqlite")
def _now_on_sqlite(element: now, compiler: SQLCompiler, **options: Any) -> str:
    # CURRENT_TIMESTAMP has no fraction there, and text of another length does not compare as a time.
    # The brackets are what SQLite asks for round an expression that is a default.
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


JSON_AS_WRITTEN = JSON().with_variant(JsonText(), *_MYSQL)

LONG_BYTES = LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)
"""Their BLOB ends at 64 KiB."""

SERIAL_ID = BigInteger().with_variant(Integer(), "sqlite")
"""A number that the database counts up. 64 bits; SQLite counts only what is called INTEGER, and means 64."""


NUMBERS_ONCE: dict[str, Any] = {"sqlite_autoincrement": True}
"""A table's option: no `SERIAL_ID` is given out a second time. The other databases give none out again."""


def key_text(chars: int, chars_in_mysql: int) -> String:
    """Text that is part of a key. InnoDB's keys have 3072 bytes in all, four a character."""
    return String(chars).with_variant(mysql.VARCHAR(chars_in_mysql), *_MYSQL)


class chars(FunctionElement[int]):  # named as SQLAlchemy names SQL functions
    """How many characters a text has."""

    type = Integer()
    inherit_cache = True


@compiles(chars)
def _chars(element: chars, compiler: SQLCompiler, **options: Any) -> str:
    return f"length({compiler.process(element.clauses, **options)})"


@compiles(chars, *_MYSQL)
def _chars_in_mysql(element: chars, compiler: SQLCompiler, **options: Any) -> str:
    return f"char_length({compiler.process(element.clauses, **options)})"  # length counts bytes


class empty_json(FunctionElement[Any]):
    """``{}`` as a column's default."""

    type = JSON()
    inherit_cache = True


@compiles(empty_json)
def _empty_json(element: empty_json, compiler: SQLCompiler, **options: Any) -> str:
    return "'{}'"


@compiles(empty_json, "mysql")
def _empty_json_in_mysql(element: empty_json, compiler: SQLCompiler, **options: Any) -> str:
    return "('{}')"  # a long text's default is an expression, or refused


class _ExactTables(MySQLDDLCompiler):
    def post_create_table(self, table: Table) -> str:
        return f"{super().post_create_table(table)} {TABLE_OPTIONS}"


def make_tables_exact(dialect: Dialect) -> None:
    """Have a dialect, which a migration has for itself, give each table of MySQL's `TABLE_OPTIONS`."""
    if dialect.name in _MYSQL:
        dialect.ddl_compiler = _ExactTables
