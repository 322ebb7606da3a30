"""What tables are made of: the kernel's declarative base, names of constraints, types, ids and times."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import MetaData, TypeDecorator
from sqlalchemy.orm import DeclarativeBase

from db.constraints import refusals as refusals
from db.portable.types import JSON_AS_WRITTEN, SERIAL_ID, UtcDateTime as UtcDateTime, now as now

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


class KernelBase(DeclarativeBase):
    """The declarative base of the kernel's own tables, and of no others. Lives as long as the process.

    An application's tables are on a base of its own, with a branch of migrations beside them
    (`db.schema.branches`); those of the sample are on `db.board.base.Base`.
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


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
