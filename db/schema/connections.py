"""Connections to look at a schema, and to change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from db.backend import Role
from db.backends.choose import backend_for
from db.engines.engine import blocking, make_engine, make_url
from db.errors import Cancelled, SchemaError


@contextmanager
def connected(settings: DatabaseSettings, role: Role) -> Iterator[Connection]:
    """A connection of its own in a transaction, which is committed unless something is raised."""
    settings = blocking(settings)
    dialect = backend_for(make_url(settings), settings.pooler)
    engine = make_engine(settings, role, dialect)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise dialect.translate(error) from error
    finally:
        engine.dispose()


@contextmanager
def migration(settings: DatabaseSettings) -> Iterator[Connection]:
    """`connected`, for a migration."""
    try:
        with connected(settings, "migration") as connection:
            yield connection
    except Cancelled as error:
        raise SchemaError("a statement ran into the time limit of migrations; nothing was changed") from error
