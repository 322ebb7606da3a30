"""A service whose reads go to a replica, which may lag."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import Settings, load_settings
from db import Database
from db.observer import Observer
from db.written import Written
from server.app import make_app
from tests.faults.read_your_writes.handlers import OWN_ROUTES
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.server import Answer, Client, Serve
from tests.fixtures.service import create_shelves
from tests.fixtures.standby import Standby, migrated, standby_of
from tests.fixtures.waiting import wait_until
from tests.service.handlers import routes

NAME = "service"
KEY = "k" * 32
DRIVERS = [
    "postgresql+psycopg2",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("greenlets", "postgresql+asyncpg", "postgresql+psycopg")
    ),
]
BOOK = {"title": "a book"}


class Recorded(Observer):
    """How reads with a token ended, and how many writes were told to be lost."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def read_after(self, how: str) -> None:
        self.counts[how] += 1

    def write_lost(self) -> None:
        self.counts["lost"] += 1


def a_primary() -> Iterator[PostgresCluster]:
    """With a schema and the tables of `tests.service`."""
    with migrated(NAME, synchronous_commit="local") as primary:  # else the log stays in memory a while
        create_shelves(RawSql(primary.url_for(NAME)))
        yield primary


@pytest.fixture(scope="package")
def primary() -> Iterator[PostgresCluster]:
    """Whose replica may lag."""
    yield from a_primary()


@pytest.fixture(scope="package")
def standby(primary: PostgresCluster) -> Iterator[Standby]:
    """Its replica."""
    with standby_of(primary) as standby:
        yield standby


def ask(server: PostgresCluster, sql: str) -> Any:
    """The first column of a statement's first row; None where it has none."""
    with server.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        row = None if cursor.description is None else cursor.fetchone()
        return None if row is None else row[0]


def cut_off(standby: Standby) -> None:
    """The replica receives nothing any more: paused, it would apply what it has before it takes over."""
    ask(standby, "ALTER SYSTEM SET primary_conninfo = ''")
    ask(standby, "SELECT pg_reload_conf()")
    assert wait_until(lambda: ask(standby, "SELECT count(*) FROM pg_stat_wal_receiver") == 0)


def catch_up(primary: PostgresCluster, standby: Standby) -> None:
    """Wait until the replica has applied all that the primary has."""
    position = ask(primary, "SELECT pg_current_wal_flush_lsn()")
    assert wait_until(lambda: ask(standby, f"SELECT pg_last_wal_replay_lsn() >= '{position}'"))


@pytest.fixture
def paused(primary: PostgresCluster, standby: Standby) -> Iterator[None]:
    """The replica applies nothing, as one that is far behind."""
    catch_up(primary, standby)
    ask(standby, "SELECT pg_wal_replay_pause()")
    assert wait_until(lambda: ask(standby, "SELECT pg_get_wal_replay_pause_state()") == "paused")
    yield
    ask(standby, "SELECT pg_wal_replay_resume()")


@pytest.fixture
def drivername() -> str:
    """The service's; a test may choose another."""
    return "postgresql+psycopg2"


@pytest.fixture
def further() -> dict[str, Any]:
    """Further settings; a test may have some."""
    return {}


@pytest.fixture
def settings(
    primary: PostgresCluster, standby: Standby, drivername: str, further: dict[str, Any]
) -> Settings:
    """Writes go to the primary, reads to the replica."""
    own = {"database.executor": "greenlets"} if drivername == "greenlets" else {}
    scheme = "postgresql+psycopg2" if drivername == "greenlets" else drivername
    hosts = [
        f"{scheme}://{one.user}:{one.password}@{one.host}:{one.port}/{NAME}" for one in (primary, standby)
    ]
    return load_settings(
        {
            "environment": "testing",
            "database.url": hosts[0],
            "database.reader_url": hosts[1],
            "database.pool_size": 2,
            "database.write_token_key": KEY,
            "database.read_after_wait_ms": 20,
            **own,
            **further,
        },
        environ={},
    )


@pytest.fixture
def recorded() -> Recorded:
    """What the service's observer was told."""
    return Recorded()


@pytest.fixture
def database(settings: Settings, recorded: Recorded, io_loop: IOLoop) -> Iterator[Database]:
    """The service's."""
    database = Database(settings.database, recorded)
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def app(settings: Settings, database: Database) -> Application:
    """`tests.service`, and the handlers of this package."""
    return make_app(settings, database, routes=[*routes(), *OWN_ROUTES])


@pytest.fixture
def client(app: Application, serve: Serve) -> Client:
    """A client of the service."""
    return serve(app)


async def write(client: Client) -> Answer:
    """Create a book."""
    answer = await client.post("/books", BOOK)
    assert answer.code == 201
    return answer


def after(*answers: Answer) -> dict[str, str]:
    """The header with the tokens of writes."""
    return {"Read-After": ", ".join(answer.headers["Wrote"] for answer in answers)}


def token_of_a_lost_write(database: Database) -> str:
    """Of one that no server has."""
    assert database.write_tokens is not None
    return database.write_tokens.token_of(Written("ab" * 16, 1, time.time()))
