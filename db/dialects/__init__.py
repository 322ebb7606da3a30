"""What each database does its own way. Only this package and `db.engine` know which one it is."""

from __future__ import annotations

from sqlalchemy import URL

from db.dialects.base import Dialect, Role
from db.dialects.postgresql import PostgreSQL
from db.dialects.sqlite import SQLite

_BY_BACKEND: dict[str, type[Dialect]] = {"postgresql": PostgreSQL, "sqlite": SQLite}

__all__ = ["Dialect", "PostgreSQL", "Role", "SQLite", "dialect_for"]


def dialect_for(url: URL) -> Dialect:
    """The ways of the database that ``url`` names.

    Raises:
        ValueError: no such database is supported here.
    """
    try:
        return _BY_BACKEND[url.get_backend_name()](url)
    except KeyError:
        supported = ", ".join(sorted(_BY_BACKEND))
        raise ValueError(
            f"the database {url.get_backend_name()!r} is not supported; there are: {supported}"
        ) from None
