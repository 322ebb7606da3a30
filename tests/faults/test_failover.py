"""Several hosts in the URL: a failover is a reconnect, and nothing that was acknowledged is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from tornado.ioloop import IOLoop

from conf import Settings, load_settings
from db import Database
from db.errors import DatabaseError
from db.observer import Observer
from server.jobs import start_jobs
from server.monitoring.metrics import LAG, STANDBY, Metrics
from server.monitoring.shared_counters import SharedCounters
from tests.faults.conftest import POOL_SIZE, REQUEST_TIMEOUT_S
from tests.faults.five_questions import FiveQuestions
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.server import Client
from tests.fixtures.service import create_shelves
from tests.fixtures.standby import Standby, migrated, standby_of
from tests.fixtures.waiting import wait_until
from tests.service.model import create_shelf

pytestmark = [pytest.mark.gen_test(timeout=60), pytest.mark.usefixtures("told_in_the_log")]

NAME = "service"

DRIVERS = [
    "postgresql+psycopg2",
    pytest.param("postgresql+asyncpg", marks=pytest.mark.slow),
    pytest.param("postgresql+psycopg", marks=pytest.mark.slow),
]


@pytest.fixture
def primary() -> Iterator[PostgresCluster]:
    """With a schema, and durable as far as a kill of its processes goes."""
    with migrated(NAME, synchronous_commit="on", full_page_writes="on") as primary:
        create_shelves(RawSql(primary.url_for(NAME)))
        yield primary


@pytest.fixture
def standby(primary: PostgresCluster) -> Iterator[Standby]:
    """A synchronous one."""
    with standby_of(primary) as standby:
        standby.become_synchronous()
        yield standby


@pytest.fixture
def settings(primary: PostgresCluster, standby: Standby, drivername: str) -> Settings:
    """Both hosts, the standby named first: nothing may be taken for the primary by its place."""
    hosts = "&".join(f"host={one.host}:{one.port}" for one in (standby, primary))
    url = f"{drivername}://{primary.user}:{primary.password}@/{NAME}?{hosts}&target_session_attrs=read-write"
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
def sql(standby: Standby) -> RawSql:
    """What there is once the standby has taken over."""
    return RawSql(standby.url_for(NAME))


@pytest.fixture
def shelves() -> None:
    """They are in the primary, and so in the standby."""


@pytest.fixture
def service_database(settings: Settings, io_loop: IOLoop) -> Iterator[Database]:
    """The service's, without a proxy."""
    database = Database(settings.database)
    yield database
    io_loop.run_sync(database.close)


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_the_primary_is_found_wherever_it_stands_in_the_url(
    service: Client, ledger: Ledger, primary: PostgresCluster
):
    """Also by the reader, whose sessions are read-only: it is the server that has to take writes."""
    book_id = ledger.new_id()
    written = await service.post("/books", ledger.resource.new(book_id, 1))
    read = await service.get(f"/books/{book_id}")

    assert (written.code, read.code) == (201, 200)
    assert len(primary.connections_to(NAME)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("drivername", DRIVERS)
async def test_a_synchronous_standby_promoted_under_load_loses_no_acknowledged_write(
    five_questions: FiveQuestions,
    load: Load,
    ledger: Ledger,
    primary: PostgresCluster,
    standby: Standby,
):
    """The primary is killed in the middle of it all; some seconds of 503, and then it goes on."""
    await five_questions.remember()

    async with load:
        await asyncio.sleep(1.0)
        before = ledger.acknowledged
        await asyncio.to_thread(primary.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(standby.promote)
        at_promotion = ledger.acknowledged
        await asyncio.sleep(1.0)

    print(dict(ledger.answers))
    assert before > 20, "there was no load"
    assert ledger.acknowledged > at_promotion, "no request reached the new primary"
    assert ledger.answers["503 unknown"] == 0, (
        "the new primary knows of every COMMIT that the old one left open"
    )
    await five_questions.ask()


class Failovers(Observer):
    """Counts them. Lives as long as its database."""

    count = 0

    def failover(self) -> None:
        self.count += 1


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_a_failover_is_counted(settings: Settings, primary: PostgresCluster, standby: Standby):
    """Once, however many connections are opened before it and after it, those of scopes among them."""
    failovers = Failovers()
    database = Database(settings.database, failovers)

    async def create(name: str) -> None:
        async with database.unit_of_work() as unit:
            await unit.run(create_shelf, unit.session, name=name)

    def create_in_scope(name: str) -> None:
        with database.session_scope() as session:
            create_shelf(session, name=name)

    await asyncio.gather(create("one"), create("two"), asyncio.to_thread(create_in_scope, "of a scope"))
    before = failovers.count
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.promote)
    for _ in range(2):  # over the connections to the old one
        with contextlib.suppress(DatabaseError):
            await create("lost")
    await asyncio.gather(create("three"), create("four"))
    for _ in range(2):  # its pool may have a connection to the old one
        with contextlib.suppress(DatabaseError):
            await asyncio.to_thread(create_in_scope, "of another scope")
    await database.close()

    assert (before, failovers.count) == (0, 1)


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_how_far_behind_the_replica_is_is_in_the_metrics(
    settings: Settings, primary: PostgresCluster, standby: Standby
):
    url = settings.database.url
    assert url is not None
    replica = url.get_secret_value().replace("=read-write", "=prefer-standby")
    counters = SharedCounters(1)
    database = Database(
        settings.database.model_copy(update={"reader_url": SecretStr(replica)}),
        Metrics(counters.slots[0]),
    )

    def shown() -> list[list[float] | None]:
        sums = counters.sums()
        return [sums.get((family.name, ())) for family in (LAG, STANDBY)]

    jobs = start_jobs(database, first=True, every_s=0.05)
    try:
        assert await asyncio.to_thread(wait_until, lambda: shown() == [[0.0], [1.0]], timeout_s=5)
        await asyncio.to_thread(standby.promote)
        assert await asyncio.to_thread(wait_until, lambda: shown() == [[0.0], [0.0]], timeout_s=5)
    finally:
        await jobs.stop()
        await database.close()
