"""A scratch database to compare on, beside the one that is set: no data of an application is touched."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator

from sqlalchemy import Connection

from conf import DatabaseSettings
from db import make_engine, make_url
from db.backends.choose import backend_for
from db.engines.engine import blocking
from db.schema.newest import bring_up
from server.compare.model import REFUSE_AT_COMMIT, Base

_MEMORY = "/dev/shm"
_LOCK_TIMEOUT = "SET lock_timeout = '10s'"


@contextlib.contextmanager
def scratch_database(settings: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """An empty database with the tables of the kernel and of the comparison; gone after the block.

    For SQLite a temporary file, whatever file is set; for PostgreSQL a schema in the database that is set,
    whose user needs the right to make one. A process that is killed leaves it behind: a folder
    ``onfinish-compare-…``, or a schema ``onfinish_compare_…``.

    Raises:
        DatabaseError: it cannot be made.
    """
    url = make_url(settings)
    with _folder(url.drivername) if backend_for(url).belongs_to_process else _schema(settings) as scratch:
        bring_up(scratch)  # for the commit markers: without them a COMMIT without an answer is unknown
        with _connection(scratch) as connection:
            Base.metadata.create_all(connection)
            for statement in REFUSE_AT_COMMIT[connection.dialect.name]:
                connection.exec_driver_sql(statement)
        yield scratch


@contextlib.contextmanager
def _folder(driver: str) -> Iterator[DatabaseSettings]:
    # In memory where there is such a folder: what is compared is not the disk.
    within = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="onfinish-compare-", dir=within) as folder:
        yield DatabaseSettings(url=f"{driver}:///{folder}/compare.db")


@contextlib.contextmanager
def _schema(settings: DatabaseSettings) -> Iterator[DatabaseSettings]:
    name = f"onfinish_compare_{secrets.token_hex(4)}"
    given = settings.connect_args.get("options", make_url(settings).query.get("options", ""))
    arguments = {**settings.connect_args, "options": f"{given} -csearch_path={name}".strip()}
    with _connection(settings) as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        # What becomes of a session that several threads find is compared; an asyncio driver has none.
        own = {"connect_args": arguments, "application_name": name, "reader_url": None}
        yield settings.model_copy(update={**own, "executor": "threads"})
    finally:
        with _connection(settings) as connection:
            connection.exec_driver_sql(_LOCK_TIMEOUT)
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")


@contextlib.contextmanager
def _connection(settings: DatabaseSettings) -> Iterator[Connection]:
    engine = make_engine(blocking(settings), "migration")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
