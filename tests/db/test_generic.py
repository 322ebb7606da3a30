"""A database without a backend of its own: DuckDB, and the SQLSTATEs of ODBC drivers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from duckdb_engine import ConnectionWrapper
from sqlalchemy import Sequence, String, insert, make_url as parse_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database, Outcome
from db.backends.choose import backend_for
from db.errors import (
    Conflict,
    ConnectionLost,
    DatabaseError,
    DeadlinePassed,
    NotInSchema,
    OutcomeUnknown,
    ReadOnlyViolation,
    RetryableConflict,
    StatementFailed,
    TransactionAborted,
    Unreachable,
    UsageError,
)
from db.health import require_known_pooler
from tests.fixtures.logs import ExpectLog

pytestmark = pytest.mark.gen_test


class Base(DeclarativeBase):
    pass


class Hero(Base):
    __tablename__ = "heroes"

    id: Mapped[int] = mapped_column(Sequence("heroes_id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)


@pytest.fixture
def heroes_db(tmp_path: Path, io_loop: IOLoop, expect_log: ExpectLog) -> Iterator[Database]:
    with expect_log("onfinish.db", "duckdb: .* no cancel in the database") as told:
        database = Database(DatabaseSettings(url=f"duckdb:///{tmp_path / 'heroes.duckdb'}"))
    assert len(told) == 1
    with database.writer.scopes.begin() as connection:
        Base.metadata.create_all(connection)
    yield database
    io_loop.run_sync(database.close)


def names(session: Session) -> list[str]:
    return list(session.scalars(select(Hero.name)))


def add(session: Session, name: str) -> None:
    session.add(Hero(name=name))
    session.flush()


async def heroes(database: Database) -> list[str]:
    async with database.unit_of_work(read_only=True) as unit:
        return await unit.run(names, unit.session)


async def write(database: Database, name: str) -> None:
    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session, name)


async def test_a_unit_of_work_is_kept_or_undone_as_a_whole(heroes_db):
    await write(heroes_db, "Deadpond")

    with pytest.raises(KeyError):
        async with heroes_db.unit_of_work() as undone:
            await undone.run(add, undone.session, "Rusty-Man")
            raise KeyError

    assert await heroes(heroes_db) == ["Deadpond"]


async def test_a_constraint_is_a_conflict(heroes_db):
    await write(heroes_db, "Deadpond")

    with pytest.raises(Conflict):
        await write(heroes_db, "Deadpond")

    assert await heroes(heroes_db) == ["Deadpond"]


async def test_a_write_of_a_read_only_unit_is_refused(heroes_db):
    async with heroes_db.unit_of_work(read_only=True) as unit:
        with pytest.raises(ReadOnlyViolation):
            await unit.run(lambda: unit.session.execute(insert(Hero).values(name="Deadpond")))

    assert await heroes(heroes_db) == []


async def test_a_write_in_text_of_a_read_only_unit_is_undone(heroes_db):
    async with heroes_db.unit_of_work(read_only=True) as unit:
        await unit.run(lambda: unit.session.execute(text("INSERT INTO heroes VALUES (1, 'Deadpond')")))

    assert await heroes(heroes_db) == []


async def test_a_statement_that_failed_ends_the_unit_though_the_error_was_caught(heroes_db):
    def caught(session: Session) -> None:
        add(session, "Deadpond")
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT nothing FROM heroes"))

    with pytest.raises(TransactionAborted):
        async with heroes_db.unit_of_work() as unit:
            await unit.run(caught, unit.session)

    assert await heroes(heroes_db) == []


async def test_snapshot_and_isolation_are_refused(heroes_db):
    with pytest.raises(UsageError, match="isolation is not supported on duckdb"):
        async with heroes_db.unit_of_work(isolation="SERIALIZABLE") as unit:
            await unit.run(names, unit.session)


async def test_a_lock_of_the_database_is_refused(heroes_db):
    def take(session: Session) -> None:
        heroes_db.backend.takes_lock(session.connection(), "clean up")

    with pytest.raises(UsageError, match="no lock for alone=True"):
        async with heroes_db.unit_of_work() as unit:
            await unit.run(take, unit.session)


async def test_the_start_of_the_service_takes_it_as_it_is(heroes_db):
    assert await require_known_pooler(heroes_db) is None


class OdbcError(Exception):
    """As pyodbc's: the SQLSTATE, and the driver's words."""


def odbc(code: str, statement: str | None = "SELECT 1") -> DBAPIError:
    return DBAPIError(
        statement, None, OdbcError(code, f"[{code}] [Microsoft][ODBC Driver 17 for SQL Server]")
    )


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (odbc("HYT00", None), Unreachable),
        (odbc("HYT00"), DeadlinePassed),
        (odbc("08001", None), Unreachable),
        (odbc("08S01"), ConnectionLost),
        (odbc("08003"), ConnectionLost),
        (odbc("40001"), RetryableConflict),
        (odbc("23000"), Conflict),
        (odbc("42S02"), NotInSchema),
        (odbc("42000"), StatementFailed),
    ],
)
def test_sqlstates_of_odbc_have_their_meaning(error: DBAPIError, meaning: type[DatabaseError]):
    backend = backend_for(parse_url("mssql+pyodbc://h/d"))

    assert type(backend.translate(error)) is meaning


@pytest.mark.parametrize(
    ("code", "unknown"),
    [("08S01", True), ("08007", True), ("HYT00", True), ("40001", False), ("23000", False)],
)
def test_08s01_at_commit_is_a_commit_without_an_answer(code: str, unknown: bool):
    backend = backend_for(parse_url("mssql+pyodbc://h/d"))

    assert backend.commit_may_have_been_applied(odbc(code, None)) is unknown


async def test_a_commit_whose_answer_is_lost_is_unknown(heroes_db, monkeypatch):
    def commit_without_answer(connection: Any) -> None:
        connection.execute("COMMIT")
        raise duckdb.OperationalError("08S01", "[08S01] Communication link failure")

    with pytest.raises(OutcomeUnknown):
        async with heroes_db.unit_of_work() as unit:
            await unit.run(add, unit.session, "Deadpond")
            monkeypatch.setattr(ConnectionWrapper, "commit", commit_without_answer, raising=False)

    assert unit.outcome is Outcome.UNKNOWN
    assert await heroes(heroes_db) == ["Deadpond"]
