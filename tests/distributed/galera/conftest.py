"""The cluster of these tests, which is whole before each and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

import db.schema.migrate
from conf import DatabaseSettings, load_settings
from db import Database
from tests.fixtures.databases import RawSql
from tests.fixtures.galera import PASSWORD, GaleraCluster, Node, running_galera
from tests.fixtures.mariadb import USER
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp, create_shelves

NAME = "service"
REQUEST_TIMEOUT_S = 15.0

ServiceAt = Callable[..., Client]


def url_of(*nodes: Node, name: str = NAME, **query: str) -> str:
    """Where the service's database is: those nodes, in that order."""
    hosts = "&".join(f"host=127.0.0.1:{node.port}" for node in nodes)
    more = "".join(f"&{key}={value}" for key, value in query.items())
    return f"mariadb+pymysql://{USER}:{PASSWORD}@/{name}?{hosts}{more}"


@pytest.fixture(scope="package")
def running_cluster() -> Iterator[GaleraCluster]:
    """Three nodes with the kernel's tables and those of `tests.service`; a test takes `cluster`."""
    for cluster in running_galera():
        node = cluster.nodes[0]
        node._execute(f"CREATE DATABASE {NAME}")
        db.schema.migrate.upgrade(DatabaseSettings(url=node.url_for(NAME)))
        create_shelves(RawSql(node.url_for(NAME)))
        yield cluster


@pytest.fixture
def cluster(running_cluster: GaleraCluster) -> Iterator[GaleraCluster]:
    """Whole before the test and after it."""
    running_cluster.wait_until_whole()
    yield running_cluster
    for node in running_cluster.nodes:
        node.thaw()
        if not node.runs:
            node.start()
    running_cluster.wait_until_whole()


@pytest.fixture
def empty(cluster: GaleraCluster) -> Iterator[str]:
    """The name of an empty database."""
    name = cluster.nodes[0].create_database()
    yield name
    cluster.wait_until_whole()
    cluster.nodes[0].drop_database(name)


@pytest.fixture
def sql(cluster: GaleraCluster) -> RawSql:
    """The service's database by the first node, without books."""
    sql = RawSql(cluster.nodes[0].url_for(NAME))
    sql("DELETE FROM books")
    return sql


@pytest.fixture
def shelves() -> None:
    """They are in the cluster."""


@pytest.fixture
def service_at(sql: RawSql, io_loop: IOLoop, make_application: MakeApp, serve: Serve) -> Iterator[ServiceAt]:
    """``service_at(url, **settings)`` serves the service on that database; returns a client of it."""
    made: list[Database] = []

    def service_at(url: str, **further: Any) -> Client:
        settings = load_settings(
            {
                "environment": "testing",
                "database.url": url,
                "database.pool_size": 5,
                "database.connect_timeout_s": 2,
                "http.request_timeout_s": REQUEST_TIMEOUT_S,
                **further,
            },
            environ={},
        )
        made.append(Database(settings.database))
        return serve(make_application(settings, made[-1]))

    yield service_at
    for database in made:
        io_loop.run_sync(database.close)
