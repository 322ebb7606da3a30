"""A service in this process, on a PostgreSQL of this package's own that may be broken, through a proxy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import Settings, load_settings
from db import Database
from tests.faults.five_questions import FiveQuestions
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql, has_tables
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp, create_shelves
from tests.fixtures.standby import migrated
from tests.fixtures.waiting import wait_until

TEMPLATE = "migrated"
POOL_SIZE = 3
REQUEST_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    """A server to stop, kill and restart. What it has told to be committed, a kill does not lose."""
    with migrated(TEMPLATE, max_connections="30", synchronous_commit="on", full_page_writes="on") as cluster:
        yield cluster


@pytest.fixture
def database_name(cluster: PostgresCluster) -> Iterator[str]:
    """A fresh, migrated database in that server; no connection may be left on it."""
    name = cluster.create_database(template=TEMPLATE)
    yield name
    if not wait_until(lambda: not cluster.connections_to(name), timeout_s=5.0):
        left = "\n".join(cluster.connections_to(name))
        pytest.fail(f"the test left connections to its database:\n{left}", pytrace=False)
    cluster.drop_database(name)


@pytest.fixture
def sql(cluster: PostgresCluster, database_name: str) -> RawSql:
    """Past the proxy."""
    return RawSql(cluster.url_for(database_name))


@pytest.fixture
def shelves(sql: RawSql) -> None:
    """The tables of `tests.service` in that database, or in the one that the test has in its place."""
    if not has_tables(sql, "shelves"):
        create_shelves(sql)


@pytest.fixture
def proxy(make_proxy: MakeProxy, cluster: PostgresCluster) -> Proxy:
    """What stands between the service and its database."""
    return make_proxy((cluster.host, cluster.port))


@pytest.fixture
def drivername() -> str:
    """The service's; a test may choose another."""
    return "postgresql"


@pytest.fixture
def settings(cluster: PostgresCluster, database_name: str, proxy: Proxy, drivername: str) -> Settings:
    """Little patience, so that a test has not to wait long."""
    url = cluster.url_for(database_name).replace(f":{cluster.port}/", f":{proxy.port}/")
    url = url.replace("postgresql:", f"{drivername}:", 1)
    return load_settings(
        {
            "environment": "testing",
            "database.url": url,
            "database.pool_size": POOL_SIZE,
            "database.connect_timeout_s": 2,
            "http.request_timeout_s": REQUEST_TIMEOUT_S,
        },
        environ={},
    )


@pytest.fixture
def service_database(settings: Settings, proxy: Proxy, io_loop: IOLoop) -> Iterator[Database]:
    """The service's, reached through the proxy."""
    database = Database(settings.database)
    yield database
    proxy.release()
    if proxy.is_frozen:
        proxy.thaw()
    io_loop.run_sync(database.close)


@pytest.fixture
def service(
    settings: Settings, service_database: Database, make_application: MakeApp, serve: Serve
) -> Client:
    """A client of the service."""
    application: Application = make_application(settings, service_database)
    return serve(application)


@pytest.fixture
def ledger() -> Ledger:
    """What this test's clients were told."""
    return Ledger()


@pytest.fixture
def load(service: Client, ledger: Ledger) -> Load:
    """Clients of the service, in an ``async with``."""
    return Load(service, ledger)


@pytest.fixture
def five_questions(service: Client, sql: RawSql, ledger: Ledger, told_in_the_log: None) -> FiveQuestions:
    """``remember()`` before the fault, ``ask()`` after it."""
    return FiveQuestions(service, sql, ledger, pool_size=POOL_SIZE)


@pytest.fixture
def told_in_the_log(expect_log: ExpectLog) -> Iterator[None]:
    """Faults may be logged, as warnings and as errors; an answer of 500 may not.

    The records are kept as text: pytest keeps them until the test ends, and an error's traceback would
    hold the handler that it came from.
    """
    made = logging.getLogRecordFactory()

    def as_text(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = made(*arguments, **options)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
        return record

    logging.setLogRecordFactory(as_text)
    try:
        with (
            expect_log("onfinish", "", required=False),
            expect_log("psycopg", "query cancellation", required=False),  # of a link that is dead
            expect_log("tornado.access", r"^50[34] ", required=False),
        ):
            yield
    finally:
        logging.setLogRecordFactory(made)
