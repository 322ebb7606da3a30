"""Errors: one tree, one meaning on both databases, and no confidential text in their messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from conf.redaction import code_of
from db import Database, errors
from db.errors import (
    Conflict,
    ConstraintFailed,
    DatabaseError,
    NotInSchema,
    ReadOnlyViolation,
    StatementFailed,
)
from tests.fixtures.databases import RawSql
from tests.service.model import create_book, create_shelf

pytestmark = pytest.mark.usefixtures("shelves")

SECRET = "tiptop-secret"


def every_error() -> list[type[DatabaseError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, DatabaseError)
    ]


def test_the_picture_of_the_tree_is_the_tree():
    """Each class stands in the module's drawing, so a new one has to be drawn."""
    assert errors.__doc__ is not None
    for error in every_error():
        assert error.__name__ in errors.__doc__, error


def insert_shelf(session: Session) -> None:
    session.execute(text("INSERT INTO shelves (name) VALUES (:name)"), {"name": SECRET})


def twice(session: Session) -> None:
    insert_shelf(session)
    insert_shelf(session)


def too_long(session: Session) -> None:
    session.execute(text("INSERT INTO shelves (name) VALUES (:name)"), {"name": SECRET * 9})


def empty(session: Session) -> None:
    session.execute(text("INSERT INTO shelves (name) VALUES ('')"))


def nothing(session: Session) -> None:
    session.execute(text("INSERT INTO shelves (name) VALUES (NULL)"))


def nowhere(session: Session) -> None:
    session.execute(text("SELECT :name FROM nowhere"), {"name": SECRET})


def nonsense(session: Session) -> None:
    session.execute(text("SELEC :name"), {"name": SECRET})


def out_of_range(session: Session) -> None:
    session.execute(text("SELECT * FROM shelves WHERE id = :id"), {"id": 2**70})


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (twice, Conflict),
        (empty, Conflict),
        (nothing, ConstraintFailed),
        (nowhere, NotInSchema),
        (nonsense, StatementFailed),
    ],
)
def test_an_error_means_the_same_on_both_databases_and_tells_no_secrets(
    database: Database, work: Callable[[Session], None], expected: type[DatabaseError]
):
    with pytest.raises(expected) as caught, database.session_scope() as session:
        work(session)

    assert type(caught.value) is expected
    shown = f"{caught.value!s} {caught.value!r} {caught.value.args}"
    for word in (SECRET, "INSERT", "SELEC", "nowhere", "DETAIL", "Key (", "psycopg", "sqlite"):
        assert word not in shown
    assert caught.value.__cause__ is not None, "the log may know more"


def test_a_refusals_sentence_is_the_one_beside_its_table(database: Database):
    taken = "a shelf with this name exists already"
    with pytest.raises(Conflict, match=taken) as by_name, database.session_scope() as session:
        create_shelf(session, name="a")
        create_shelf(session, name="a")
    with pytest.raises(Conflict, match="1 to 64 characters"), database.session_scope() as session:
        empty(session)

    assert by_name.value.constraint in ("uq_shelves_name", "shelves.name")


def test_a_unique_constraint_without_a_sentence_is_refused_in_general_words(database: Database, sql: RawSql):
    sql("CREATE TABLE plain (n integer CONSTRAINT one_of_each UNIQUE)")

    with pytest.raises(Conflict, match="does not allow this") as caught, database.session_scope() as session:
        session.execute(text("INSERT INTO plain VALUES (1), (1)"))

    assert caught.value.constraint in ("one_of_each", "plain.n")
    assert caught.value.table == "plain"


def test_a_check_without_a_sentence_is_a_fault_that_names_it(database: Database, sql: RawSql):
    sql("CREATE TABLE plain (n integer CONSTRAINT positive CHECK (n > 0))")

    with (
        pytest.raises(ConstraintFailed, match="plain: positive") as caught,
        database.session_scope() as session,
    ):
        session.execute(text("INSERT INTO plain VALUES (-1)"))

    assert (caught.value.constraint, caught.value.table) == ("positive", "plain")


def test_a_row_that_another_refers_to_cannot_be_deleted(database: Database, sql: RawSql):
    with database.session_scope() as session:
        create_book(session, shelf_id=create_shelf(session, name="a").id)

    with pytest.raises(Conflict), database.session_scope() as session:
        session.execute(text("DELETE FROM shelves"))
    assert len(sql("SELECT * FROM shelves")) == 1


def test_a_write_on_the_reader_is_a_fault_that_names_the_unit_and_what_to_do(database: Database, sql: RawSql):
    """The same on both databases, in a flush and in SQL of one's own."""
    for work in (insert_shelf, lambda session: create_shelf(session, name="a")):
        with (
            pytest.raises(ReadOnlyViolation, match=r"^GET Some: .*in_new_transaction") as caught,
            database.session_scope(label="GET Some", read_only=True) as session,
        ):
            work(session)
        assert SECRET not in str(caught.value)

    assert sql("SELECT * FROM shelves") == []


def test_the_logs_word_for_an_error_is_its_kind_and_code(database: Database):
    """Nothing of the statement: such a line is written where the error itself is not shown."""
    with pytest.raises(DatabaseError) as caught, database.session_scope() as session:
        twice(session)
    cause = caught.value.__cause__

    assert cause is not None
    assert code_of(cause) in ("UniqueViolation 23505", "IntegrityError SQLITE_CONSTRAINT_UNIQUE")
    assert code_of(KeyError("secret")) == "KeyError"
