"""A transaction that writes through postgres_fdw alone: it has no id here, and may have written there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

import db.schema.migrate
from conf import DatabaseSettings
from db import Database, Outcome
from db.errors import ConnectionLost, OutcomeUnknown
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster, debian_binaries
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.service import create_shelves

# The wheel's PostgreSQL comes without contrib.
pytestmark = [pytest.mark.gen_test, pytest.mark.debian]

DRIVERS = ("postgresql", "postgresql+asyncpg", "postgresql+psycopg")


@pytest.fixture
def cluster(own_postgres_cluster: Callable[..., PostgresCluster]) -> PostgresCluster:
    return own_postgres_cluster(binaries=debian_binaries())


@pytest.fixture
def there(cluster: PostgresCluster) -> RawSql:
    """The database that a foreign table's rows are in."""
    sql = RawSql(cluster.url_for(cluster.create_database("there")))
    sql("CREATE TABLE notes (words text)")
    return sql


@pytest.fixture
def here(cluster: PostgresCluster, there: RawSql) -> RawSql:
    """The service's own database, with the foreign table."""
    url = cluster.url_for(cluster.create_database("here"))
    db.schema.migrate.upgrade(DatabaseSettings(url=url))
    sql = RawSql(url)
    for statement in (
        "CREATE EXTENSION postgres_fdw",
        "CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw"
        f" OPTIONS (host '127.0.0.1', port '{cluster.port}', dbname 'there')",
        "CREATE USER MAPPING FOR CURRENT_USER SERVER there"
        f" OPTIONS (user '{cluster.user}', password '{cluster.password}')",
        "CREATE FOREIGN TABLE notes (words text) SERVER there",
    ):
        sql(statement)
    create_shelves(sql)
    return sql


@pytest.fixture
def proxy(make_proxy: MakeProxy, cluster: PostgresCluster) -> Proxy:
    """What stands between the service and its own database; the two databases speak past it."""
    return make_proxy(("127.0.0.1", cluster.port))


@pytest.fixture(params=DRIVERS)
def database(
    request: pytest.FixtureRequest, cluster: PostgresCluster, here: RawSql, proxy: Proxy, io_loop: IOLoop
) -> Iterator[Database]:
    url = cluster.url_for("here").replace(f":{cluster.port}/", f":{proxy.port}/")
    database = Database(DatabaseSettings(url=url.replace("postgresql", request.param, 1), pool_size=1))
    yield database
    io_loop.run_sync(database.close)


def write_there(session: Session) -> None:
    session.execute(text("INSERT INTO notes VALUES ('a')"))


def write_here(session: Session) -> None:
    session.execute(text("INSERT INTO shelves (name) VALUES ('a')"))


@pytest.mark.parametrize("delivered", [False, True])
async def test_a_lost_commit_of_a_write_through_a_foreign_table_is_unknown(
    database: Database, there: RawSql, proxy: Proxy, delivered: bool
):
    """Nothing here tells how it ended, and nothing says that it was kept."""
    unit = database.unit_of_work(deadline_at=time.monotonic() + 10)
    await unit.run(write_there, unit.session)
    proxy.cut_at(b"COMMIT", delivered=delivered)

    with pytest.raises(OutcomeUnknown):
        await unit.settle(keep=True)

    assert unit.outcome is Outcome.UNKNOWN
    assert len(there("SELECT * FROM notes")) == delivered


@pytest.mark.parametrize("delivered", [False, True])
async def test_beside_a_foreign_table_a_write_here_is_known_as_everywhere(
    database: Database, here: RawSql, proxy: Proxy, expect_log: ExpectLog, delivered: bool
):
    unit = database.unit_of_work()
    await unit.run(write_here, unit.session)
    proxy.cut_at(b"COMMIT", delivered=delivered)

    with expect_log("onfinish.db", "was applied" if delivered else "was not applied"):
        if delivered:
            await unit.settle(keep=True)
        else:
            with pytest.raises(ConnectionLost):
                await unit.settle(keep=True)

    assert unit.outcome is (Outcome.COMMITTED if delivered else Outcome.ROLLED_BACK)
    assert len(here("SELECT * FROM shelves")) == delivered
