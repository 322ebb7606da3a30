"""What each database does its own way. Only this package and `db.engine` know which one it is."""

from __future__ import annotations

from sqlalchemy import URL

from db.dialects.base import Dialect, Role
from db.dialects.pgbouncer import PgBouncer
from db.dialects.postgresql import PostgreSQL
from db.dialects.sqlite import SQLite

_BY_BACKEND: dict[str, type[Dialect]] = {"postgresql": PostgreSQL, "sqlite": SQLite}

_BY_POOLER: dict[str, type[Dialect]] = {"pgbouncer": PgBouncer}

__all__ = ["Dialect", "PgBouncer", "PostgreSQL", "Role", "SQLite", "dialect_for"]


def dialect_for(url: URL, pooler: str | None = None) -> Dialect:
    """The ways of the database that ``url`` names, and of the pooler before it.

    Raises:
        ValueError: no such database is supported here.
    """
    if pooler is not None:
        return _BY_POOLER[pooler](url)
    try:
        return _BY_BACKEND[url.get_backend_name()](url)
    except KeyError:
        supported = ", ".join(sorted(_BY_BACKEND))
        raise ValueError(
            f"the database {url.get_backend_name()!r} is not supported; there are: {supported}"
        ) from None
