"""The recorder: what a unit of work has done, by which line, and nothing when it is off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, joinedload, selectinload, undefer

from db import Database
from db.engines._sqlalchemy import load_of
from db.errors import DatabaseError
from db.observer import ObservedUnit
from db.work.recorder import SQL_CHARS_MAX, SQL_CHARS_TOTAL, STATEMENTS_MAX, Recorder, Recording
from tests.db.authors import Author, Poem, create_authors, titles
from tests.db.counters import add, create_counters, read
from tests.fixtures.databases import RawSql

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

Ended = list[tuple[ObservedUnit, Recording]]


@pytest.fixture
def ended() -> Ended:
    """The units that have ended, with what was recorded of them."""
    return []


@pytest.fixture
def recorder(database: Database, ended: Ended) -> Iterator[Recorder]:
    """A recorder that is on; a file is the application's where it is one of the tests'."""
    recorder = Recorder(
        (database.writer, database.reader),
        database.registry,
        is_application=lambda file: "/tests/" in file and "site-packages" not in file,
        ended=lambda unit, recording: ended.append((unit, recording)),
    )
    recorder.start()
    yield recorder
    recorder.stop()


def loads_of(recording: Recording) -> list[str]:
    """What its statements loaded by themselves."""
    return [
        f"{each.load.entity}.{each.load.attribute} {each.load.loader} {each.load.is_lazy}"
        for each in recording.statements
        if each.load is not None
    ]


def methods_of(database: Database) -> dict[str, Any]:
    """All that a recorder stands round."""
    engines = {
        "writer": database.writer.engine,
        "reader": database.reader.engine,
        "writer's scopes": database.writer.scopes,
        "reader's scopes": database.reader.scopes,
    }
    found = {
        f"{name} {method}": vars(engine.dialect).get(method)
        for name, engine in engines.items()
        for method in vars(type(engine.dialect)).keys() | vars(engine.dialect).keys() | {"do_begin"}
    }
    return found | {f"registry {name}": value for name, value in vars(database.registry).items()}


@pytest.mark.every_driver("postgresql+asyncpg")
@pytest.mark.gen_test
async def test_off_is_the_same_function_objects_as_before(database: Database, ended: Ended):
    """Of dialects and registry; nothing is recorded then."""
    before = methods_of(database)
    recorder = Recorder(
        (database.writer, database.reader),
        database.registry,
        is_application=lambda file: True,
        ended=lambda unit, recording: ended.append((unit, recording)),
    )
    recorder.start()
    recorder.start()  # does nothing
    on = methods_of(database)
    recorder.stop()
    after = methods_of(database)
    async with database.unit_of_work() as unit:
        await unit.run(unit.session.execute, text("SELECT 1"))

    assert on["writer do_execute"] is not before["writer do_execute"]
    assert after.keys() == before.keys()
    assert [name for name, value in after.items() if value is not before[name]] == []
    assert not hasattr(unit._guard, "recording")
    assert ended == []


@pytest.mark.every_driver("postgresql+asyncpg")
@pytest.mark.gen_test
async def test_a_statement_is_recorded_with_its_line_and_without_its_parameters(
    database: Database, recorder: Recorder, ended: Ended, sql: RawSql
):
    """In a thread as in a greenlet; COMMIT follows, and lies behind it."""
    create_counters(sql)

    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session, amount=4242)

    [(seen, recording)] = ended
    [statement] = [each for each in recording.statements if "counters" in each.sql]
    assert seen is unit
    assert statement.line is not None
    assert statement.line.function == "add"
    assert statement.line.file.endswith("tests/db/counters.py")
    assert statement.rows == 1
    assert statement.counts
    assert not statement.failed
    assert 0 < statement.took_s < 10
    assert unit.opened_at <= statement.began_at
    assert "4242" not in repr(recording.statements)
    assert recording.connected_at is not None
    assert recording.commit is not None
    assert recording.commit.began_at >= statement.began_at + statement.took_s


@pytest.mark.every_driver("postgresql+asyncpg")
@pytest.mark.gen_test
async def test_the_count_is_that_of_the_access_line(
    database: Database, recorder: Recorder, ended: Ended, sql: RawSql
):
    """BEGIN is recorded and does not count; the commit marker's row counts, and has no line."""
    create_counters(sql)

    async with database.unit_of_work() as unit:
        await unit.run(add, unit.session)

    [(_, recording)] = ended
    assert sum(each.counts for each in recording.statements) == unit.statements
    assert next(each.line for each in recording.statements if each.counts) is not None


@pytest.mark.every_driver("postgresql+asyncpg")
@pytest.mark.gen_test
async def test_a_library_function_that_is_run_has_the_line_that_ran_it(
    database: Database, recorder: Recorder, ended: Ended
):
    """There is no line of the application in its thread or greenlet."""
    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(unit.session.execute, text("SELECT 1"))  # this one

    [(_, recording)] = ended
    [statement] = recording.statements
    assert statement.line is not None
    assert statement.line.function == "test_a_library_function_that_is_run_has_the_line_that_ran_it"


@pytest.mark.every_driver("postgresql+asyncpg")
@pytest.mark.gen_test
async def test_a_lazy_load_is_named_with_its_attribute(
    database: Database, recorder: Recorder, ended: Ended, sql: RawSql
):
    """Collection, reference, deferred column, each with the loader; what belongs to the rows is not lazy."""
    create_authors(sql, authors=2)

    async with database.unit_of_work(read_only=True) as unit:
        assert len(await unit.run(titles, unit.session)) == 4

    def of_one(session: Session) -> None:
        poem = session.scalars(select(Poem).order_by(Poem.id)).first()
        assert poem is not None
        assert poem.author.biography == "born"

    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(of_one, unit.session)

    def eager(session: Session) -> None:
        session.scalars(select(Author).options(selectinload(Author.poems), undefer(Author.biography))).all()
        session.scalars(select(Poem).options(joinedload(Poem.author))).all()
        session.refresh(session.get_one(Author, 1))

    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(eager, unit.session)

    lazily, of_poem, eagerly = (recording for _, recording in ended)
    assert loads_of(lazily) == ["Author.poems selectinload True"] * 2
    assert loads_of(of_poem) == ["Poem.author joinedload True", "Author.biography undefer True"]
    assert loads_of(eagerly)[0] == "Author.poems selectinload False"
    assert not any(load.endswith("True") for load in loads_of(eagerly))
    assert {each.line.function for each in lazily.statements if each.line} == {"titles"}


@pytest.mark.every_driver("postgresql+asyncpg", "postgresql+psycopg")
@pytest.mark.gen_test
async def test_a_result_that_is_read_in_pieces_is_recorded_too(
    database: Database, recorder: Recorder, ended: Ended, sql: RawSql
):
    """By a cursor of the server, which does not say how many rows there are."""
    create_authors(sql, authors=6)

    def read_in_pieces(session: Session) -> int:
        return len(session.scalars(select(Author).execution_options(yield_per=2)).all())

    async with database.unit_of_work(read_only=True, snapshot=True) as unit:
        assert await unit.run(read_in_pieces, unit.session) == 6

    [(_, recording)] = ended
    [statement] = [each for each in recording.statements if "authors" in each.sql]
    assert statement.line is not None
    assert statement.line.function == "read_in_pieces"
    assert not statement.failed


def test_what_a_statement_loads_is_not_known_of_another_sqlalchemy():
    """Then there is the statement all the same."""

    class Path:
        path = ("no property",)

    class State:
        current_path = Path()

    class Compiled:
        compile_state = State()

    class Context:
        compiled = Compiled()
        execution_options = MappingProxyType[str, object]({})

    assert load_of(Context()) is None
    assert load_of(object()) is None


@pytest.mark.every_driver("postgresql+asyncpg")
@pytest.mark.gen_test
async def test_a_statement_that_fails_is_recorded_without_a_word_of_the_driver(
    database: Database, recorder: Recorder, ended: Ended
):
    with pytest.raises(DatabaseError):
        async with database.unit_of_work() as unit:
            await unit.run(unit.session.execute, text("SELECT nothing FROM nowhere"))

    [(_, recording)] = ended
    [statement] = [each for each in recording.statements if each.counts]
    assert statement.failed
    assert statement.sql == "SELECT nothing FROM nowhere"
    assert recording.commit is None
    assert "no such table" not in repr(recording.statements)
    assert "does not exist" not in repr(recording.statements)


@on_sqlite
@pytest.mark.gen_test
async def test_what_the_guard_refuses_was_not_sent(database: Database, recorder: Recorder, ended: Ended):
    with pytest.raises(Exception, match="ends or begins a transaction"):
        async with database.unit_of_work() as unit:
            await unit.run(unit.session.execute, text("COMMIT"))

    [(_, recording)] = ended
    assert recording.statements == []


def test_a_scope_is_recorded_in_its_thread(database: Database, recorder: Recorder, ended: Ended, sql: RawSql):
    create_counters(sql)

    with database.session_scope(label="a job") as session:
        assert read(session) == 0

    [(unit, recording)] = ended
    assert unit.label == "a job"
    assert [each.line.function for each in recording.statements if each.line and each.counts] == ["read"]


@on_sqlite
@pytest.mark.gen_test
async def test_a_unit_is_of_bounded_size(database: Database, recorder: Recorder, ended: Ended):
    """Statements beyond the limit are counted; long ones are cut, and many long ones are cut short."""

    def work(session: Session) -> None:
        for number in range(STATEMENTS_MAX + 40):
            session.execute(text(f"SELECT {number}, '{'x' * 2 * SQL_CHARS_MAX}'"))

    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(work, unit.session)

    [(_, recording)] = ended
    assert len(recording.statements) == STATEMENTS_MAX
    assert recording.more == 40
    assert recording.more_s > 0
    assert len(recording.statements[0].sql) == SQL_CHARS_MAX + 1
    assert sum(len(each.sql) for each in recording.statements) < 3 * SQL_CHARS_TOTAL


@pytest.mark.gen_test
async def test_work_that_is_rolled_back_has_no_commit(
    database: Database, recorder: Recorder, ended: Ended, sql: RawSql
):
    create_counters(sql)

    with pytest.raises(ZeroDivisionError):
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
            raise ZeroDivisionError

    [(_, recording)] = ended
    assert recording.commit is None
    assert recording.rollback is not None


@pytest.mark.gen_test
async def test_a_hundred_units_at_once_are_told_apart(database: Database, recorder: Recorder, ended: Ended):
    async def one(number: int) -> None:
        async with database.unit_of_work(read_only=True, label=f"unit {number}") as unit:
            for _ in range(3):
                await unit.run(unit.session.execute, text(f"SELECT {number}"))

    await asyncio.gather(*(one(number) for number in range(100)))

    assert len(ended) == 100
    for unit, recording in ended:
        assert {each.sql for each in recording.statements} == {f"SELECT {unit.label.removeprefix('unit ')}"}
        assert len(recording.statements) == 3
