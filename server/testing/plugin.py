"""The kit as fixtures of pytest, which finds them by the entry point of the installed package.

An application defines ``database_schema``, and ``app`` for ``client``. Fixtures of a ``conftest.py`` win over
those of the same name here.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.database import databases
from server.testing.client import Client, start_server, stop_server
from server.testing.databases import SERVER_URL, FreshDatabases, Schema, close_database, still_connected
from server.testing.logs import Ear, ExpectLog, in_words
from server.testing.loop import io_loop as io_loop
from server.testing.outcome import has_failed, pytest_runtest_makereport as pytest_runtest_makereport
from server.testing.session import rolled_back_session

MakeDatabase = Callable[[DatabaseSettings], Database]
Serve = Callable[..., Client]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("onfinish").addoption(
        "--database-url",
        help=f"the server on which each test gets a database of its own; by default that of {SERVER_URL}, "
        "else SQLite",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the server where test cases of unittest and the processes of pytest-xdist find it too."""
    if url := config.getoption("--database-url"):
        os.environ[SERVER_URL] = url


@pytest.fixture(scope="session")
def database_schema() -> Schema:
    """What makes the application's tables: to be defined by it."""
    pytest.fail(
        "no tables: define a fixture database_schema (scope='session') in conftest.py, which returns the "
        "application's MetaData, or a function that makes its tables and is given the database's settings",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def fresh_databases(
    database_schema: Schema, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FreshDatabases]:
    """What the databases of the tests are copied from."""
    with FreshDatabases(database_schema, folder=tmp_path_factory.mktemp("databases")) as made:
        yield made


@pytest.fixture
def database_url(fresh_databases: FreshDatabases, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the test's own, with the application's tables and no rows."""
    with fresh_databases.fresh(tmp_path) as url:
        yield url


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """The settings of the test's own database.

    With others than the defaults: ``database_settings.model_copy(update={"pool_size": 5})``.
    """
    return DatabaseSettings(url=database_url)


@pytest.fixture
def make_database() -> MakeDatabase:
    """Makes the `Database` of a test of its settings; for an application with sessions of its own."""
    return Database


@pytest.fixture
def database(
    request: pytest.FixtureRequest,
    database_settings: DatabaseSettings,
    make_database: MakeDatabase,
    io_loop: IOLoop,
) -> Iterator[Database]:
    """A `Database` on the test's own database, closed on the test's loop at the end.

    A test fails that has left a unit of work unsettled or a connection checked out.
    """
    database = make_database(database_settings)
    yield database
    if has_failed(request.node):
        io_loop.run_sync(database.close)
        return
    try:
        io_loop.run_sync(lambda: close_database(database))
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A session for model functions, whose work is rolled back at the end; see `rolled_back_session`."""
    with rolled_back_session(database) as session:
        yield session


@pytest.fixture
def serve(io_loop: IOLoop) -> Iterator[Serve]:
    """``serve(application)`` serves it on the test's loop and returns a client; see `serving`."""
    started: list[tuple[HTTPServer, Client]] = []

    def start(application: Application, *arguments: Any, **options: Any) -> Client:
        started.append(start_server(application, *arguments, **options))
        return started[-1][1]

    yield start
    for server, client in started:
        io_loop.run_sync(functools.partial(stop_server, server, client))


@pytest.fixture
def client(app: Application, serve: Serve) -> Client:
    """A client for the application of the fixture ``app``, which the application's tests define."""
    return serve(app)


@pytest.fixture(scope="session")
def unexpected_logs() -> tuple[str, int]:
    """The logger and the least level of the records that fail a test which did not expect them."""
    return "onfinish", logging.ERROR


@pytest.fixture(autouse=True)
def log_ear(request: pytest.FixtureRequest, unexpected_logs: tuple[str, int]) -> Iterator[Ear]:
    """Listens round the whole test, teardown included; see `Ear`."""
    ear = Ear(*unexpected_logs)
    with ear.listening():
        yield ear
    if ear.unexpected and not has_failed(request.node):
        pytest.fail("unexpected log records:\n" + "\n".join(map(in_words, ear.unexpected)), pytrace=False)


@pytest.fixture
def expect_log(log_ear: Ear) -> ExpectLog:
    """``with expect_log("tornado.access", r"409 POST /tasks"):`` permits and requires that record.

    The block gives the list of the records; see `Ear.expect` for level and required.
    """
    return log_ear.expect


@pytest.fixture(autouse=True)
def no_database_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that has made a `Database` and not closed it, or left a unit of work open in another."""
    before = {database: set(database.open_units) for database in databases}
    yield
    if has_failed(request.node):
        return
    found = [line for database in databases if database not in before for line in still_connected(database)]
    for database, units in before.items():
        found += [
            f"unit of work not settled: {each.label}" for each in database.open_units if each not in units
        ]
    if found:
        pytest.fail("the test left open:\n" + "\n".join(found), pytrace=False)
