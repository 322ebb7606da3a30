"""A node of a Galera cluster that is not ready, and transactions that another node's put an end to.

The cluster is one node: its own DDL, in the order of the cluster (TOI), aborts a local transaction by force,
as another node's write does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session
from tornado.web import Application

import db.schema.migrate
from conf import DatabaseSettings, Settings, load_settings
from db import Database, Outcome
from db.errors import RetryableConflict, Unreachable
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.mariadb import MariaDbServer
from tests.fixtures.server import Serve
from tests.service.model import create_shelf

pytestmark = [pytest.mark.gen_test, pytest.mark.debian, pytest.mark.usefixtures("shelves")]


@pytest.fixture
def backend() -> str:
    return "mariadb"


@pytest.fixture(scope="module")
def node() -> Iterator[MariaDbServer]:
    """The cluster, for all tests here."""
    server = MariaDbServer(galera=True)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database_url(node: MariaDbServer) -> Iterator[str]:
    """As elsewhere, on the cluster's node."""
    name = node.create_database()
    db.schema.migrate.upgrade(DatabaseSettings(url=node.url_for(name)))
    yield node.url_for(name)
    node.drop_database(name)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load_settings({"environment": "testing", "database.url": database_url}, environ={})


@pytest.fixture
def leave(node: MariaDbServer) -> Iterator[Callable[[], None]]:
    """Cuts the node off its cluster: it is alone and without a quorum, to the end of the test."""
    address = "SET GLOBAL wsrep_cluster_address = %s"

    def go_alone() -> None:
        node._execute(address, "gcomm://127.0.0.1:9")

    yield go_alone
    node._execute(address, "gcomm://")


def add_shelf(session: Session) -> None:
    create_shelf(session, name="Store")


async def aborted_by_force(database: Database, node: MariaDbServer) -> None:
    """Have the cluster end every local transaction that works with shelves."""
    name = database.backend.url.database
    await asyncio.to_thread(node._execute, f"ALTER TABLE {name}.shelves COMMENT = 'by force'")


async def test_a_node_without_a_quorum_is_503_with_retry_after(
    app: Application, serve: Serve, leave: Callable[[], None], expect_log: ExpectLog
):
    """And /readyz says that, not that there is no schema."""
    client = serve(app)
    assert (await client.post("/shelves", {"name": "warm"})).code == 201
    leave()

    with (
        expect_log("onfinish.handlers", "the database's node is not ready"),
        expect_log("tornado.access", "503"),
    ):
        for answer in (await client.get("/shelves"), await client.post("/shelves", {"name": "Store"})):
            assert (answer.code, answer.json()["outcome"]) == (503, "not_applied")
            assert answer.headers["Retry-After"]
            assert answer.json()["detail"] == "the database's node is not ready"
        ready = await client.get("/readyz")

    assert ready.code == 503
    assert ready.json()["reason"] == "the database does not answer: the database's node is not ready"


async def test_a_commit_that_the_node_does_not_take_is_undone_for_certain(
    database: Database, node: MariaDbServer, sql: RawSql
):
    """It refuses the command, and ROLLBACK too: the connection's end is what undoes the work."""
    unit = database.unit_of_work()
    await unit.run(add_shelf, unit.session)
    node._execute("SET GLOBAL wsrep_reject_queries = ALL")
    try:
        with pytest.raises(Unreachable, match="not ready"):
            await unit.settle(keep=True)
    finally:
        node._execute("SET GLOBAL wsrep_reject_queries = NONE")

    assert unit.outcome is Outcome.ROLLED_BACK
    assert sql("SELECT * FROM shelves") == []
    async with database.unit_of_work() as next_unit:
        await next_unit.run(add_shelf, next_unit.session)


async def test_a_rollback_behind_a_forced_abort_is_done_without_a_word(
    database: Database, node: MariaDbServer, sql: RawSql
):
    """The first command after it is answered with 1213, ROLLBACK like any other; nothing is logged."""
    unit = database.unit_of_work()
    await unit.run(add_shelf, unit.session)
    await aborted_by_force(database, node)

    await unit.settle(keep=False)

    assert unit.outcome is Outcome.ROLLED_BACK
    async with database.unit_of_work() as next_unit:  # the pool's one connection, or another: it works
        await next_unit.run(add_shelf, next_unit.session)
    assert len(sql("SELECT * FROM shelves")) == 1


async def test_a_commit_behind_a_forced_abort_is_a_conflict(
    database: Database, node: MariaDbServer, sql: RawSql
):
    """A request runs again for it."""
    unit = database.unit_of_work()
    await unit.run(add_shelf, unit.session)
    await aborted_by_force(database, node)

    with pytest.raises(RetryableConflict) as conflict:
        await unit.settle(keep=True)

    assert conflict.value.reason == "certification"
    assert unit.outcome is Outcome.ROLLED_BACK
    assert sql("SELECT * FROM shelves") == []
