"""What tables are made of: the kernel's declarative base, names of constraints, types, ids and times."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import MetaData, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from db.portable.types import JSON_AS_WRITTEN, MOMENT, SERIAL_ID

# Every constraint has a name that says what it is for: migrations can drop it on any database, and an
# error that names it can be told to a client (`refusals`).
# https://alembic.sqlalchemy.org/en/latest/naming.html
NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}

refusals: dict[str, str] = {}
"""What a constraint's refusal means, as a sentence for a client.

Filled beside each table. Keys are constraint names; ``NOT NULL table.column``; and, for SQLite, which names
the columns of a unique constraint instead, ``table.column``. None holds any data.

A unique, exclusion or foreign key constraint without a sentence is a conflict in general words. A NOT NULL or
a CHECK without one is a fault of the program (`ConstraintFailed`): no client can do anything about it.
"""


class KernelBase(DeclarativeBase):
    """The declarative base of the kernel's own tables, and of no others. Lives as long as the process.

    An application's tables are on a base of its own, with a branch of migrations beside them
    (`db.schema.branches`); those of the sample are on `db.board.base.Base`.
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


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
            raise ValueError(f"{value!r} has no time zone: use db.base.utc_now(), or datetime(…, tzinfo=UTC)")
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


@compiles(now, "mysql", "mariadb")
def _now_on_mysql(element: now, compiler: SQLCompiler, **options: Any) -> str:
    return "CURRENT_TIMESTAMP(6)"  # the default of a column has to have as many digits as the column


@compiles(now, "sqlite")
def _now_on_sqlite(element: now, compiler: SQLCompiler, **options: Any) -> str:
    # CURRENT_TIMESTAMP has no fraction there, and text of another length does not compare as a time.
    # The brackets are what SQLite asks for round an expression that is a default.
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


class Json(TypeDecorator[Any]):
    """Any JSON value, kept as it was written, in its order.

    Not jsonb: that keeps numbers as decimals, and 1e23 comes back as another number than was sent.
    """

    impl = JSON_AS_WRITTEN
    cache_ok = True

    def compare_values(self, x: Any, y: Any) -> bool:
        """Whether two are one JSON value. By Python's ``==`` true is 1, and would not be written over it."""
        return same_json(x, y)


SerialId = SERIAL_ID


def same_json(one: Any, other: Any) -> bool:
    """Whether two are one JSON value: true is not 1, and 1.0 is 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return Decimal(repr(one)) == Decimal(repr(other))
    return bool(one == other)


def utc_now() -> datetime:
    """This moment, aware, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A random id: 32 lower-case hex digits."""
    return uuid.uuid4().hex
