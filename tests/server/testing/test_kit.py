"""The kit for tests: what its functions do, on both databases and through both kinds of drivers."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from sqlalchemy import make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from tornado.web import Application

from db import Database
from db.schema import migrate
from handlers import ApiHandler
from server.testing import (
    FreshDatabases,
    close_database,
    recorded_on_commit,
    rolled_back_session,
    statements_at_most,
)
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.server import Client, Serve
from tests.service.model import Shelf

pytestmark = [
    pytest.mark.usefixtures("shelves"),
    pytest.mark.every_driver("sqlite+aiosqlite", "postgresql+asyncpg"),
]


def create_shelf(session: Session, *, name: str) -> None:
    session.add(Shelf(name=name))
    session.flush()


def list_names(session: Session) -> list[str]:
    return list(session.scalars(select(Shelf.name).order_by(Shelf.id)))


def list_names_one_by_one(session: Session) -> list[str]:
    ids = session.scalars(select(Shelf.id).order_by(Shelf.id)).all()
    names = []
    for each in ids:
        names.append(session.execute(select(Shelf.name).where(Shelf.id == each)).scalar_one())  # noqa: PERF401
    return names


class Shelves(ApiHandler):
    """Two statements for one shelf; the name is passed on once it is kept."""

    announced: list[str]

    def initialize(self, announced: list[str]) -> None:
        self.announced = announced

    async def get(self) -> None:
        self.write_json(await self.run(list_names_one_by_one, self.session))

    async def post(self) -> None:
        name = self.request.body.decode()
        self.on_commit(self.announced.append, name)
        self.on_commit(self.later, name=name)
        await self.run(create_shelf, self.session, name=name)

    async def later(self, name: str) -> None:
        await asyncio.sleep(0.01)
        self.on_commit(self.announced.append, f"{name}, later")


@pytest.fixture
def announced() -> list[str]:
    return []


@pytest.fixture
def client(serve: Serve, database: Database, announced: list[str]) -> Client:
    return serve(Application([("/", Shelves, {"announced": announced})], database=database))


# -- a session that is rolled back


def test_what_is_committed_in_a_rolled_back_session_is_gone(database: Database, sql: RawSql):
    with rolled_back_session(database) as session:
        create_shelf(session, name="committed")
        session.commit()
        create_shelf(session, name="undone")
        session.rollback()
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            create_shelf(session, name="undone by a savepoint")
            raise ZeroDivisionError
        with session.begin_nested():
            create_shelf(session, name="kept by a savepoint")
        names = list_names(session)

    assert names == ["committed", "kept by a savepoint"]
    assert sql("SELECT name FROM shelves") == []


def test_a_rolled_back_session_goes_on_after_an_error_of_the_database(database: Database, sql: RawSql):
    with rolled_back_session(database) as session:
        create_shelf(session, name="here")
        session.commit()
        with pytest.raises(IntegrityError):
            create_shelf(session, name="here")
        session.rollback()
        names = list_names(session)

    assert names == ["here"]
    assert sql("SELECT name FROM shelves") == []


def test_it_is_of_the_databases_own_session_class(database_settings, io_loop):
    class Own(Session):
        pass

    database = Database(database_settings, session_class=Own, autoflush=False)
    with rolled_back_session(database) as session:
        assert isinstance(session, Own)
        assert not session.autoflush
    io_loop.run_sync(database.close)


# -- statements


def test_statements_of_a_session_are_counted_and_named_with_their_lines(database: Database):
    with rolled_back_session(database) as session:
        create_shelf(session, name="one")
        session.commit()
        with pytest.raises(AssertionError) as raised, statements_at_most(1):
            list_names_one_by_one(session)

    [told, first, line, second, other] = str(raised.value).splitlines()
    assert told == "2 statements were sent, and at most 1 are expected:"
    assert (first[:20], second[:22]) == ("1. SELECT shelves.id", "2. SELECT shelves.name")
    assert "tests/server/testing/test_kit.py:" in line
    assert "in list_names_one_by_one: ids = " in line
    assert "session.execute(" in other


@pytest.mark.gen_test
async def test_statements_of_requests_are_counted_in_threads_and_greenlets(client: Client, sql: RawSql):
    """One INSERT, whatever the kernel adds; then one for the ids and one a shelf, with their lines."""
    with statements_at_most(2) as written:
        await asyncio.gather(client.post("/", b"one"), client.post("/", b"two"))
    with pytest.raises(AssertionError, match="3 statements were sent") as raised, statements_at_most(2):
        await client.get("/")

    assert [each.sql[:19] for each in written] == ["INSERT INTO shelves"] * 2
    assert str(raised.value).count("in list_names_one_by_one: ") == 3
    assert len(sql("SELECT name FROM shelves")) == 2


def test_a_block_that_raises_says_that(database: Database):
    with pytest.raises(ZeroDivisionError), statements_at_most(0), database.session_scope() as session:
        list_names(session)
        raise ZeroDivisionError


# -- on_commit


@pytest.mark.gen_test
async def test_what_is_due_on_commit_is_recorded_in_place_of_being_done(
    client: Client, announced: list[str], expect_log
):
    with recorded_on_commit(run=False) as due, expect_log("tornado.access", "409 POST"):
        await client.post("/", b"one")
        refused = await client.post("/", b"one")

    assert refused.code == 409
    assert [(each.function.__name__, each.args, each.kwargs) for each in due] == [
        ("append", ("one",), {}),
        ("later", (), {"name": "one"}),
    ]
    assert announced == []


@pytest.mark.gen_test
async def test_what_is_due_on_commit_is_recorded_and_done(
    client: Client, database: Database, announced: list[str]
):
    """What one of the functions adds is recorded too."""
    with recorded_on_commit() as due:
        await client.post("/", b"one")
        names = [each.function.__name__ for each in due]
        await database.idle(5.0)

    assert names == ["append", "later"]
    assert announced == ["one", "one, later"]
    assert [each.args for each in due] == [("one",), (), ("one, later",)]


# -- what is left open


@pytest.mark.gen_test
async def test_a_database_with_an_open_unit_is_closed_and_the_unit_named(database_settings, monkeypatch):
    monkeypatch.setattr("server.testing.databases.IDLE_S", 0.1)
    database = Database(database_settings)
    unit = database.unit_of_work(label="a job")
    await unit.run(list_names, unit.session)

    with pytest.raises(AssertionError, match="unit of work not settled: a job, in SELECT"):
        await close_database(database)

    assert unit.settled


def test_a_connection_that_is_not_given_back_is_named(database: Database, database_settings, io_loop):
    other = Database(database_settings)
    connection = other.writer.scopes.connect()

    with pytest.raises(AssertionError, match="connections of the writer not given back to their pool: 1"):
        io_loop.run_sync(lambda: close_database(other))

    connection.invalidate()
    connection.close()
    other.dispose()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_no_database_is_left_on_the_server(postgres_cluster: PostgresCluster, sql: RawSql):
    """Neither a test's own nor the one that it is a copy of; nor where its tables cannot be made."""
    server = postgres_cluster.url_for("postgres")

    def databases() -> set[str]:
        return {row["datname"] for row in sql("SELECT datname FROM pg_database")}

    before = databases()
    with FreshDatabases(migrate.upgrade, server) as made, made.fresh() as url:
        name = make_url(url).database
        there = databases()
    with pytest.raises(ZeroDivisionError), FreshDatabases(lambda _: 1 / 0, server) as broken, broken.fresh():
        pass

    assert name in there
    assert len(there - before) == 2
    assert databases() == before
