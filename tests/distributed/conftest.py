"""A service in this process on a PostgreSQL cluster under Patroni."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

import db.schema.migrate
from conf import DatabaseSettings, Settings, load_settings
from db import Database
from tests.distributed.read_after import ReadAfterLoad
from tests.faults.conftest import told_in_the_log as told_in_the_log
from tests.faults.ledger import Ledger
from tests.fixtures.databases import RawSql
from tests.fixtures.patroni import PASSWORD, USER, Member, PatroniCluster, running_patroni
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp, create_shelves

NAME = "service"
POOL_SIZE = 5
REQUEST_TIMEOUT_S = 15.0
"""Long enough to ask, after a failover, what became of a COMMIT."""
ON_AGAIN_S = 1.0
"""How long after a new leader a write may take to succeed: 0.01 to 0.14 s at a load of 8 on two cores."""
AT_WORK_TIMEOUT_S = 10.0


def url_of(
    cluster: PatroniCluster, drivername: str, *, haproxy: bool = False, wanted: str = "read-write"
) -> str:
    """Where the service's database is: each member by its host, or HAProxy's port for the leader.

    Args:
        wanted: `target_session_attrs`. Behind HAProxy all but ``read-write`` is a standby.
    """
    parts = [f"host={each.host}:{each.port}" for each in cluster.members]
    if haproxy:
        port = cluster.writer_port if wanted == "read-write" else cluster.reader_port
        parts = [f"host=127.0.0.1:{port}"]
    else:
        parts.append(f"target_session_attrs={wanted}")
    return f"{drivername}://{USER}:{PASSWORD}@/{NAME}?{'&'.join(parts)}"


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
    """A service on the cluster, which reads from its standbys."""
    return load_settings(
        {
            "environment": "testing",
            "database.url": url_of(cluster, drivername, haproxy=haproxy),
            "database.reader_url": url_of(cluster, drivername, haproxy=haproxy, wanted="prefer-standby"),
            "database.write_token_key": "k" * 32,
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
def creates_only() -> bool:
    """Whether no row is changed: then what became of each write can be seen in the end."""
    return False


@pytest.fixture
def load(service: Client, ledger: Ledger, creates_only: bool) -> ReadAfterLoad:
    """Clients of the service, in an ``async with``."""
    return ReadAfterLoad(service, ledger, keyed=True, creates_only=creates_only)


async def at_work(ledger: Ledger) -> int:
    """Wait until the load has some acknowledged writes; returns how many."""
    async with asyncio.timeout(AT_WORK_TIMEOUT_S):
        while ledger.acknowledged <= 20:  # noqa: ASYNC110  # counted by others
            await asyncio.sleep(0.01)
    return ledger.acknowledged


async def goes_on(ledger: Ledger, within_s: float = ON_AGAIN_S) -> float:
    """Wait for the next acknowledged write; returns how long that took, in seconds."""
    before, began = ledger.acknowledged, time.monotonic()
    while ledger.acknowledged == before:
        assert time.monotonic() - began < within_s, f"no write succeeded: {dict(ledger.answers)}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def switches_over(cluster: PatroniCluster, ledger: Ledger) -> float:
    """A switchover, once the load is at work; returns how long the next write took then, in seconds."""
    await at_work(ledger)
    await asyncio.to_thread(cluster.switch_over)
    return await goes_on(ledger)


async def fails_over(
    cluster: PatroniCluster, ledger: Ledger, leader: Member, *steps: Callable[[], object]
) -> float:
    """Another leader takes over, once the load is at work.

    Args:
        steps: what makes it do so, one after the other.

    Returns:
        How long after that the next write took, in seconds.
    """
    await at_work(ledger)
    for step in steps:
        await asyncio.to_thread(step)
    await asyncio.to_thread(cluster.wait_for_leader, other_than=leader)
    return await goes_on(ledger)


def synchronous_standby(cluster: PatroniCluster) -> Member:
    """The member whose confirmation a COMMIT waits for."""
    [name] = [each["name"] for each in cluster.states() if each["role"] == "sync_standby"]
    return next(member for member in cluster.members if member.name == name)


def rows_of(cluster: PatroniCluster) -> set[str]:
    """The ids of what the leader holds."""
    return {row["id"] for row in RawSql(url_of_leader(cluster))("SELECT id FROM books")}


def differences(cluster: PatroniCluster, ledger: Ledger) -> list[str]:
    """What the leader holds, against what the clients of this test were told."""
    sql = RawSql(url_of_leader(cluster))
    known = [fault for fault in ledger.compare(sql) if "no request asked for it" not in fault]
    phantoms = sorted(rows_of(cluster) - ledger.possible.keys())
    return [*known, *(f"{row_id} is there, and no request asked for it" for row_id in phantoms)]


async def broken_promises(cluster: PatroniCluster, ledger: Ledger, load: ReadAfterLoad) -> list[str]:
    """What the leader holds, and what each write's token shows, against what the clients were told.

    For where nothing may be lost.
    """
    await load.read_all_back()
    found = await asyncio.to_thread(differences, cluster, ledger)
    return [*found, *load.stale, *(f"{write} was told to be lost" for write in sorted(load.told_lost))]


def ways(*quick: tuple[str, bool], haproxy: bool = True) -> pytest.MarkDecorator:
    """Each driver, by the members' hosts and behind HAProxy; those that are not quick take minutes in all."""
    every = [
        (driver, behind)
        for driver in ("psycopg2", "asyncpg", "psycopg")
        for behind in (False, True)[: 1 + haproxy]
    ]
    return pytest.mark.parametrize(
        ("drivername", "haproxy"),
        [
            pytest.param(
                f"postgresql+{driver}",
                behind,
                id=f"{driver}-{'haproxy' if behind else 'hosts'}",
                marks=[] if (driver, behind) in quick else pytest.mark.long,
            )
            for driver, behind in every
        ],
    )
