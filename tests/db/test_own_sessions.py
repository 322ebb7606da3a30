"""Sessions of an application's own class and options; tables without migrations; stale rows."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from conf import DatabaseSettings
from db import Database
from db.errors import Conflict, SessionNotOwned, SessionSettled, UsageError
from tests.fixtures.databases import RawSql

every_driver = pytest.mark.every_driver("postgresql+asyncpg")


class Base(DeclarativeBase):
    pass


class Hero(Base):
    __tablename__ = "heroes"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Deed(Base):
    __tablename__ = "deeds"
    id: Mapped[int] = mapped_column(primary_key=True)
    hero_id: Mapped[int] = mapped_column(ForeignKey("heroes.id"))


class CountingSession(Session):
    """Counts what it adds, and commits as it likes."""

    added = 0

    def add_counted(self, row: object) -> None:
        self.added += 1
        self.add(row)

    def commit(self) -> None:
        raise AssertionError("a unit of work commits, and not this")


@every_driver
def test_a_session_class_of_ones_own_has_its_methods_and_is_ended_by_its_unit(database_url: str, sql: RawSql):
    database = Database(DatabaseSettings(url=database_url), session_class=CountingSession, autoflush=False)
    database.create_all(Base.metadata)

    with database.session_scope() as session:
        assert isinstance(session, CountingSession)
        session.add_counted(Hero(name="Deadpond"))
        assert (session.added, session.autoflush) == (1, False)
        with pytest.raises(SessionNotOwned):
            session.commit()
    with pytest.raises(SessionSettled):
        session.get(Hero, 1)

    assert sql("SELECT name FROM heroes") == [{"name": "Deadpond"}]
    database.dispose()


@pytest.mark.gen_test
@every_driver
async def test_a_unit_of_work_on_the_event_loop_has_such_a_session_too(database_url: str, sql: RawSql):
    database = Database(DatabaseSettings(url=database_url), session_class=CountingSession)
    database.create_all(Base.metadata)

    def add(session: Session) -> None:
        assert isinstance(session, CountingSession)
        session.add_counted(Hero(name="Rusty-Man"))

    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session)

    assert sql("SELECT name FROM heroes") == [{"name": "Rusty-Man"}]
    await database.close()


@pytest.mark.parametrize("option", ["expire_on_commit", "bind", "twophase", "execution_options"])
def test_an_option_that_the_unit_of_work_decides_is_refused(option: str):
    with pytest.raises(UsageError, match=f"{option}.*not the application's"):
        Database(DatabaseSettings(url="sqlite://"), **{option: True})  # type: ignore[arg-type]


def test_a_session_class_is_a_subclass_of_sqlalchemys():
    with pytest.raises(UsageError, match="Base is no subclass of"):
        Database(DatabaseSettings(url="sqlite://"), session_class=Base)  # type: ignore[arg-type]


@every_driver
def test_create_all_makes_the_tables_and_the_kernels_and_leaves_what_is_there(database_url: str, sql: RawSql):
    """Through an asyncio driver's URL too, without an event loop."""
    database = Database(DatabaseSettings(url=database_url))

    database.create_all(Base.metadata)
    with database.session_scope() as session:
        session.add(Hero(name="Spider-Boy"))
    database.create_all(Base.metadata)

    tables = set(inspect(database.writer.scopes).get_table_names())
    assert {"heroes", "deeds", "commit_witness", "idempotency_keys"} <= tables
    assert sql("SELECT name FROM heroes") == [{"name": "Spider-Boy"}]

    database.drop_all(Base.metadata)
    left = set(inspect(database.writer.scopes).get_table_names())
    assert "heroes" not in left
    assert "idempotency_keys" in left
    database.dispose()


@pytest.mark.parametrize("when", ["at a flush", "at the end"])
def test_a_row_that_was_changed_since_it_was_read_is_a_conflict(when: str, database_url: str, sql: RawSql):
    """A mapper with a version: the UPDATE finds no row, which is 409 and not a fault of the program."""
    database = Database(DatabaseSettings(url=database_url))
    database.create_all(Base.metadata)
    with database.session_scope() as session:
        session.add(Hero(name="Deadpond"))

    with (
        pytest.raises(Conflict, match="changed or deleted since it was read"),
        database.session_scope() as session,
    ):
        hero = session.get_one(Hero, 1)
        session.execute(text("UPDATE heroes SET version = version + 1"))
        hero.name = "Wade"
        if when == "at a flush":
            session.flush()

    assert sql("SELECT name FROM heroes") == [{"name": "Deadpond"}]
    database.dispose()
