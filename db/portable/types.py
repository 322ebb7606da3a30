"""Types and expressions that a database spells its own way, for `db.base` to make tables of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Integer, LargeBinary, String
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.compiler import DDLCompiler, SQLCompiler, TypeCompiler
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
"""With microseconds, which theirs has not unless it is told."""

JSON_AS_WRITTEN = JSON().with_variant(JsonText(), *_MYSQL)

LONG_BYTES = LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)
"""Their BLOB ends at 64 KiB."""

SERIAL_ID = BigInteger().with_variant(Integer(), "sqlite")
"""A number that the database counts up. 64 bits; SQLite counts only what is called INTEGER, and means 64."""


def short_in_mysql(chars: int, chars_in_mysql: int) -> String:
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


@compiles(CreateTable, *_MYSQL)
def _create_table(element: CreateTable, compiler: DDLCompiler, **options: Any) -> str:
    made: str = compiler.visit_create_table(element, **options)  # type: ignore[no-untyped-call]
    return f"{made.rstrip()} {TABLE_OPTIONS}\n\n"
