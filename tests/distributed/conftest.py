"""A service in this process on a PostgreSQL cluster under Patroni."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

import db.schema.migrate
from conf import DatabaseSettings, Settings, load_settings
from db import Database
from tests.faults.conftest import told_in_the_log as told_in_the_log
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql
from tests.fixtures.patroni import PASSWORD, USER, Member, PatroniCluster, running_patroni
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp, create_shelves

NAME = "service"
POOL_SIZE = 5
REQUEST_TIMEOUT_S = 15.0
"""Long enough to ask, after a failover, what became of a COMMIT."""
ON_AGAIN_S = 10.0
"""How long after a new leader a write may take to succeed; a coarse net, the measured times are printed."""


def url_of(cluster: PatroniCluster, drivername: str, *, haproxy: bool = False, **query: str) -> str:
    """Where the service's database is: each member by its host, or HAProxy's port for the leader."""
    hosts = [f"host={each.host}:{each.port}" for each in cluster.members]
    query = {"target_session_attrs": "read-write"} | query
    if haproxy:
        hosts, query = [f"host=127.0.0.1:{cluster.writer_port}"], {}
    parts = "&".join([*hosts, *(f"{name}={value}" for name, value in query.items())])
    return f"{drivername}://{USER}:{PASSWORD}@/{NAME}?{parts}"


def url_of_leader(cluster: PatroniCluster, name: str = NAME) -> str:
    """Where it is at this moment, past everything that is tested."""
    leader = cluster.wait_for_leader()
    return f"postgresql://{USER}:{PASSWORD}@{leader.host}:{leader.port}/{name}"


def prepare(cluster: PatroniCluster) -> None:
    """The kernel's tables and those of `tests.service`, on all members."""
    leader = cluster.wait_for_leader()
    leader.query(f"CREATE DATABASE {NAME}")
    db.schema.migrate.upgrade(DatabaseSettings(url=url_of_leader(cluster)))
    create_shelves(RawSql(url_of_leader(cluster)))


@pytest.fixture(scope="module")
def cluster_options() -> dict[str, Any]:
    """Three members, and a COMMIT is answered when a standby has it; a module may choose others."""
    return {}


@pytest.fixture(scope="module")
def modules_cluster(cluster_options: dict[str, Any]) -> Iterator[PatroniCluster]:
    """The members of all tests of a module."""
    for cluster in running_patroni(**cluster_options):
        prepare(cluster)
        yield cluster


@pytest.fixture
def cluster(modules_cluster: PatroniCluster) -> Iterator[PatroniCluster]:
    """The module's, whole before the test and after it."""
    modules_cluster.wait_until_whole()
    RawSql(url_of_leader(modules_cluster))("DELETE FROM books")
    yield modules_cluster
    for member in modules_cluster.members:
        member.thaw()
    modules_cluster.wait_until_whole()


@pytest.fixture
def drivername() -> str:
    """The service's; a test may choose another."""
    return "postgresql+psycopg2"


@pytest.fixture
def haproxy() -> bool:
    """Whether the service reaches the cluster through HAProxy; a test may choose."""
    return False


@pytest.fixture
def further() -> dict[str, Any]:
    """Further settings of the service; a test may have some."""
    return {}


@pytest.fixture
def settings(cluster: PatroniCluster, drivername: str, haproxy: bool, further: dict[str, Any]) -> Settings:
    """A service on the cluster."""
    return load_settings(
        {
            "environment": "testing",
            "database.url": url_of(cluster, drivername, haproxy=haproxy),
            "database.pool_size": POOL_SIZE,
            "database.connect_timeout_s": 2,
            "http.request_timeout_s": REQUEST_TIMEOUT_S,
            **further,
        },
        environ={},
    )


@pytest.fixture
def service_database(settings: Settings, io_loop: IOLoop) -> Iterator[Database]:
    """The service's."""
    database = Database(settings.database)
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def service(
    settings: Settings, service_database: Database, make_application: MakeApp, serve: Serve
) -> Client:
    """A client of the service."""
    return serve(make_application(settings, service_database))


@pytest.fixture
def shelves() -> None:
    """They are in the cluster."""


@pytest.fixture
def ledger() -> Ledger:
    """What this test's clients were told."""
    return Ledger()


@pytest.fixture
def load(service: Client, ledger: Ledger) -> Load:
    """Clients of the service, in an ``async with``."""
    return Load(service, ledger, keyed=True)


async def goes_on(ledger: Ledger, within_s: float = ON_AGAIN_S) -> float:
    """Wait for the next acknowledged write; returns how long that took, in seconds."""
    before, began = ledger.acknowledged, time.monotonic()
    while ledger.acknowledged == before:
        assert time.monotonic() - began < within_s, f"no write succeeded: {dict(ledger.answers)}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def synchronous_standby(cluster: PatroniCluster) -> Member:
    """The member whose confirmation a COMMIT waits for."""
    [name] = [each["name"] for each in cluster.states() if each["role"] == "sync_standby"]
    return next(member for member in cluster.members if member.name == name)


def differences(cluster: PatroniCluster, ledger: Ledger) -> list[str]:
    """What the leader holds, against what the clients of this test were told."""
    sql = RawSql(url_of_leader(cluster))
    known = [fault for fault in ledger.compare(sql) if "no request asked for it" not in fault]
    rows = {row["id"] for row in sql("SELECT id FROM books")}
    phantoms = sorted(rows - ledger.possible.keys())
    return [*known, *(f"{row_id} is there, and no request asked for it" for row_id in phantoms)]
