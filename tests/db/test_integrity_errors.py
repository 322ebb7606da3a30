"""SQLAlchemy's errors in model code, and what is made of them where that ends."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import Database
from db.errors import Conflict, ConstraintFailed
from tests.fixtures.databases import RawSql, has_tables
from tests.handlers.notes import DDL, Note, add_note

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.every_driver("sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"),
]


@pytest.fixture
def notes(backend: str, sql: RawSql) -> None:
    """The table, with one row."""
    if not has_tables(sql, "notes"):
        sql.run_each(DDL[backend])
    sql("INSERT INTO notes (text) VALUES ('taken')")


def texts(sql: RawSql) -> list[str]:
    return [row["text"] for row in sql("SELECT text FROM notes ORDER BY id")]


def find_or_add(session: Session, *, text: str | None) -> str:
    """The idiom: try, and do something else where a constraint refuses it. A savepoint guards the rest."""
    try:
        with session.begin_nested():
            session.add(Note(text=text))
            session.flush()
    except IntegrityError:
        session.add(Note(text=f"instead of {text}"))
        return "refused"
    return "added"


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(("text", "instead"), [("taken", "instead of taken"), (None, "instead of None")])
async def test_model_code_catches_an_integrity_error_of_a_savepoint(
    text: str | None, instead: str, database: Database, sql: RawSql
):
    """A duplicate, or a NULL: what came before and what comes after is kept."""
    async with database.unit_of_work() as unit:
        await unit.run(add_note, unit.session, text="before")
        result = await unit.run(find_or_add, unit.session, text=text)
        again = await unit.run(find_or_add, unit.session, text="new")

    assert (result, again) == ("refused", "added")
    assert sorted(texts(sql)) == sorted(["taken", "before", instead, "new"])


@pytest.mark.usefixtures("notes")
async def test_the_same_in_a_script_or_a_job(database: Database, sql: RawSql):
    """`session_scope` and `run_in_transaction` raise SQLAlchemy's errors inside too."""

    def scope() -> str:
        with database.session_scope() as session:
            return find_or_add(session, text="taken")

    results = [
        await database.in_thread(scope),
        await database.in_thread(lambda: database.run_in_transaction(find_or_add, text="new")),
    ]

    assert results == ["refused", "added"]
    assert sorted(texts(sql)) == ["instead of taken", "new", "taken"]


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(("text", "kind"), [("taken", Conflict), (None, ConstraintFailed)])
async def test_outside_of_model_code_it_is_the_packages_error_and_carries_sqlalchemys(
    text: str | None, kind: type[Exception], database: Database, sql: RawSql
):
    """What `run` raises shows neither SQL nor parameters; ``__cause__`` is the error as it was there."""
    with pytest.raises(kind) as refused:
        async with database.unit_of_work() as unit:
            await unit.run(add_note, unit.session, text=text)  # type: ignore[arg-type]

    assert isinstance(refused.value.__cause__, IntegrityError)
    assert not isinstance(refused.value, IntegrityError)
    assert "INSERT" not in str(refused.value)
    assert texts(sql) == ["taken"]
