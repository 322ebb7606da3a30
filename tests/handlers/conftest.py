"""A table, a server for one handler, and the check that everything lent came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from db import Database
from handlers import log_request
from server.testing.outcome import has_failed
from tests.fixtures.databases import RawSql, has_tables, offer_tables
from tests.fixtures.server import Client, Serve
from tests.handlers import custody
from tests.handlers.notes import DDL

Notes = Callable[[], list[str]]
Mount = Callable[..., Client]


@pytest.fixture
def notes(backend: str, sql: RawSql) -> Notes:
    """Makes the table ``notes``; called, gives the texts that are in the database, past everything tested."""
    if not has_tables(sql, "notes"):
        sql.run_each(DDL[backend])
    return lambda: [row["text"] for row in sql("SELECT text FROM notes ORDER BY id")]


offer_tables("notes", DDL.__getitem__)


@pytest.fixture
def mount(
    request: pytest.FixtureRequest, serve: Serve, database: Database, notes: Notes, io_loop: IOLoop
) -> Iterator[Mount]:
    """``mount(Handler)`` serves one handler at ``/`` and gives a client; more keywords are settings.

    After every test, however its requests ended, all units, slots and connections have to be back.
    """

    def start(
        handler: type[RequestHandler],
        path: str = "/",
        *,
        initialize: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Client:
        settings.setdefault("log_function", log_request)
        application = Application([(path, handler, initialize or {})], database=database, **settings)
        return serve(application, **server or {})

    yield start
    if not has_failed(request.node):
        assert io_loop.run_sync(lambda: custody.all_back(database)) == {}
