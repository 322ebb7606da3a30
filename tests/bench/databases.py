"""Databases for a measurement: fresh copies of one that has been migrated and filled."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

import db.schema.migrate
from conf import DatabaseSettings
from tests.bench.rows import seed
from tests.bench.service import postgresql


class Fresh(Protocol):
    """Where databases of one's own come from."""

    def new(self, rows: int, /) -> str:
        """The URL of a database of its own with so many tasks."""


class Databases:
    """Makes databases on one server. Lives as long as a run, which drops them all at its end.

    Args:
        url: of any database of the server; its user may create others.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._names: list[str] = []
        self._templates: dict[int, str] = {}

    def new(self, rows: int) -> str:
        """The URL of a database of its own with so many tasks."""
        template = self._templates.get(rows)
        if template is None:
            template = self._templates[rows] = self._create()
            url = self._url_of(template)
            db.schema.migrate.upgrade(DatabaseSettings(url=url))
            with connected(url) as connection, connection.cursor() as cursor:
                seed(cursor, rows)
        return self._url_of(self._create(template))

    def drop(self) -> None:
        """Remove them all; open connections to them are ended."""
        with connected(self._url) as connection, connection.cursor() as cursor:
            for name in self._names:
                drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
                cursor.execute(drop.format(sql.Identifier(name)))

    @property
    def version(self) -> str:
        """The server's release."""
        with connected(self._url) as connection:
            return str(connection.info.parameter_status("server_version"))

    def _create(self, template: str = "template0") -> str:
        name = f"onfinish_bench_{os.getpid()}_{len(self._names) + 1}"
        with connected(self._url) as connection, connection.cursor() as cursor:
            names = sql.Identifier(name), sql.Identifier(template)
            cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
            self._names.append(name)
            # Times are answered in UTC, by drivers that leave that to the server too.
            cursor.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'UTC'").format(names[0]))
        return name

    def _url_of(self, name: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()


@contextlib.contextmanager
def connected(url: str) -> Iterator[Any]:
    """A connection past everything that is measured, in autocommit, closed at the end of the block."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        yield connection
    finally:
        connection.close()


def count_tasks(url: str) -> int:
    """How many there are, past everything that is measured."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            return int(file.execute("SELECT count(*) FROM tasks").fetchone()[0])
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tasks")
        return int(cursor.fetchone()[0])


@contextlib.contextmanager
def databases(url: str | None) -> Iterator[Databases]:
    """Databases on a server of one's own choice, or on one that lives as long as the block."""
    with contextlib.ExitStack() as stack:
        if url is None:
            cluster = stack.enter_context(postgresql())
            url = cluster.url_for("postgres")
        made = Databases(url)
        stack.callback(made.drop)
        yield made
