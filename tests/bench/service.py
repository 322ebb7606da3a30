"""A server process on a PostgreSQL of its own, for measurements."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import db.schema.migrate
from conf import DatabaseSettings
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ServerProcess


@contextlib.contextmanager
def postgresql(**options: str) -> Iterator[PostgresCluster]:
    """A PostgreSQL server, removed at the end of the block. It vacuums its tables, as any in use does."""
    # Fourteen servers that are compared have twenty connections each.
    own = {"autovacuum": "on", "synchronous_commit": "on", "max_connections": "500"}
    cluster = PostgresCluster(options=own | options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


def new_database(cluster: PostgresCluster) -> str:
    """The URL of a fresh, migrated database."""
    url = cluster.url_for(cluster.create_database())
    db.schema.migrate.upgrade(DatabaseSettings(url=url))
    return url


@contextlib.contextmanager
def serving(url: str, **environ: str) -> Iterator[ServerProcess]:
    """The server as production runs it, on a free port, killed at the end of the block if it still runs."""
    environ = {
        "ENVIRONMENT": "production",
        "DATABASE_URL": f"{url}?sslmode=disable" if url.startswith("postgres") else url,
        "LOG_LEVEL": "warning",
        "GRACE_S": "0",
        "PYTHONWARNINGS": "",
        **environ,
    }
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(["--port", "0"], environ, Path(folder))
        try:
            server.wait_until_it_listens()
            yield server
        finally:
            server.kill()
