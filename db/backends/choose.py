"""The choice among the backends, by URL and pooler."""

from __future__ import annotations

from sqlalchemy import URL

from db.backend import Backend, ExecutorName
from db.backends.generic import Generic
from db.backends.mysql import MySQL
from db.backends.pgbouncer import PgBouncer
from db.backends.postgresql import PostgreSQL
from db.backends.sqlite import SQLite

_BY_BACKEND: dict[str, type[Backend]] = {
    "mariadb": MySQL,
    "mysql": MySQL,
    "postgresql": PostgreSQL,
    "sqlite": SQLite,
}

_BY_POOLER: dict[str, type[Backend]] = {"pgbouncer": PgBouncer}


def backend_for(url: URL, pooler: str | None = None, executor: ExecutorName = "threads") -> Backend:
    """The backend of the database that ``url`` names, and of the pooler before it.

    Args:
        url: with the driver.
        pooler: what stands before the database.
        executor: as of `Backend`; threads, where the caller is in one.

    Raises:
        ValueError: no such driver of this database is supported here.
    """
    name = url.get_backend_name()
    backend = _BY_BACKEND.get(name, Generic) if pooler is None else _BY_POOLER[pooler]
    if backend is not Generic and url.get_driver_name() not in backend.drivers:
        supported = ", ".join(
            f"{name}+{driver}" for name, ways in _BY_BACKEND.items() for driver in ways.drivers
        )
        raise ValueError(f"{name}+{url.get_driver_name()} is not supported yet; there are: {supported}")
    return backend(url, executor)
