"""A database for each test, and the check that a test has left nothing open in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from sqlalchemy import URL, MetaData, make_url as parse_url
from sqlalchemy.pool import QueuePool

from conf import DatabaseSettings
from db import Database, make_engine, make_url
from db.engines.engine import blocking

Schema = MetaData | Callable[[DatabaseSettings], object]
"""What makes an application's tables in an empty database: its MetaData, or a function that is called with
the settings of that database, such as `db.schema.migrate.upgrade`."""

SERVER_URL = "TEST_DATABASE_URL"
"""The environment variable that names the server of tests; pytest's option ``--database-url`` sets it."""

IDLE_S = 2.0
"""How long what a test has begun may take to end by itself."""

_FILE_COPY_SINCE = (15,)


class FreshDatabases:
    """Databases for one test each: empty copies of one that has the application's tables.

    Lives as long as a run of tests, or a class of them; leaving it as a context manager drops that one. For
    one thread.

    Args:
        schema: makes the tables; called once, on MariaDB and MySQL once a database. With MetaData the
            kernel's own tables are made too.
        server_url: of a database that may be connected to; on its server others are made, which takes the
            right to. A URL of SQLite stands for files. None: the environment's ``TEST_DATABASE_URL``, else
            SQLite.
        folder: where files are made; None for a temporary one.
    """

    def __init__(self, schema: Schema, server_url: str | None = None, *, folder: Path | None = None) -> None:
        url = parse_url(server_url or os.environ.get(SERVER_URL) or "sqlite://")
        self._is_file = url.get_backend_name() == "sqlite"
        if self._is_file:
            url = url.set(database="test.db")
        given = DatabaseSettings(url=url.render_as_string(hide_password=False))
        self._schema = schema
        self._url = make_url(given)
        self._left = contextlib.ExitStack()
        self._folder = folder
        self._template: str | None = None
        self._copies = self._is_file or self._url.get_backend_name() == "postgresql"
        if not self._is_file:
            # Not under the application's name: a test may look for the connections of that.
            own = given.model_copy(update={"application_name": "test databases"})
            engine = make_engine(blocking(own), "migration")
            connection = self._left.enter_context(engine.connect())
            self._server = connection.execution_options(isolation_level="AUTOCOMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the database that was copied, and end the connection to the server."""
        self._left.close()

    @contextlib.contextmanager
    def fresh(self, folder: Path | None = None) -> Iterator[str]:
        """The URL of a new database, which is dropped at the end of the block, with all connections to it.

        Args:
            folder: where ``test.db`` is made, if it is a file, which stays there; None for a folder that is
                removed.

        Raises:
            DBAPIError: the server refuses it; nothing is left behind.
        """
        if self._copies and self._template is None:
            self._template = self._left.enter_context(self._made())
            self._fill(self._url.set(database=self._template))
        with self._made(self._template, folder) as name:
            url = self._url.set(database=name)
            if not self._copies:
                self._fill(url)
            yield url.render_as_string(hide_password=False)

    def _fill(self, url: URL) -> None:
        settings = DatabaseSettings(url=url.render_as_string(hide_password=False))
        if not isinstance(self._schema, MetaData):
            self._schema(settings)
            return
        database = Database(settings)
        try:
            database.create_all(self._schema)
        finally:
            database.dispose()

    @contextlib.contextmanager
    def _made(self, template: str | None = None, folder: Path | None = None) -> Iterator[str]:
        if self._is_file:
            with contextlib.ExitStack() as removed:
                if folder is None:
                    folder = Path(removed.enter_context(tempfile.TemporaryDirectory(dir=self._folder)))
                file = folder / "test.db"
                if template is not None:
                    # A copy takes the file alone: the last connection that was closed has emptied its log.
                    shutil.copyfile(template, file)
                yield str(file)
            return
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._server.exec_driver_sql(f"CREATE DATABASE {name}{self._options(template)}")
        try:
            yield name
        finally:
            force = " WITH (FORCE)" if self._copies else ""
            self._server.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}{force}")

    def _options(self, template: str | None) -> str:
        if not self._copies:
            return ""
        version = self._server.dialect.server_version_info or ()
        # 12 ms; WAL_LOG, the default, takes 30: it writes every page twice.
        strategy = " STRATEGY FILE_COPY" if version >= _FILE_COPY_SINCE else ""
        return f" TEMPLATE {template or 'template0'}{strategy}"


def left_open(database: Database) -> list[str]:
    """What is open in a database, in words: units of work that are not settled, connections checked out."""
    found = [
        f"unit of work not settled: {unit.label}" + (f", in {unit.statement}" if unit.statement else "")
        for unit in database.open_units
    ]
    for name, count in _connections(database, QueuePool.checkedout):
        found.append(f"connections of the {name} not given back to their pool: {count}")
    return found


def still_connected(database: Database) -> list[str]:
    """As `left_open`, and the connections of a database that is not closed."""
    found = left_open(database)
    if any(_connections(database, QueuePool.checkedin)):
        found.append("a Database with open connections: `await database.close()` was not called")
    return found


def _connections(database: Database, counted: Callable[[QueuePool], int]) -> list[tuple[str, int]]:
    """Those of the pools that have any, by their endpoints' names."""
    pools = {
        engine.pool: endpoint.limiter.name
        for endpoint in (database.reader, database.writer)
        for engine in (endpoint.engine, endpoint.scopes)
    }
    found = [(name, counted(pool)) for pool, name in pools.items() if isinstance(pool, QueuePool)]
    return [each for each in found if each[1]]


async def close_database(database: Database) -> None:
    """Close a test's database, on the event loop that has used it.

    Raises:
        AssertionError: a unit of work was left unsettled, or a connection was not given back; both for
            longer than `IDLE_S`. The database is closed all the same.
    """
    await database.idle(IDLE_S)
    found = left_open(database)
    await database.close()
    if found:
        raise AssertionError("the test left open in its database:\n" + "\n".join(found))
