"""What every table is made of, on real databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, literal, select
from sqlalchemy.exc import StatementError

from db import Database
from db.base import UtcDateTime, new_id
from tests.fixtures.databases import RawSql
from tests.service.model import Book, Shelf, load_book

pytestmark = pytest.mark.usefixtures("shelves")

MOMENTS = [
    datetime(2020, 6, 3, 10, 45, 0, 287701, tzinfo=UTC),
    datetime(2020, 3, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC),
    datetime(2, 1, 1, tzinfo=UTC),
    datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_moment_comes_back_as_it_went_with_its_microseconds(database: Database, moment: datetime):
    """Written in one transaction and read in another, in UTC."""
    with database.session_scope() as session:
        session.add(Shelf(name="a", create_time=moment))

    with database.session_scope(read_only=True) as session:
        found = session.scalars(select(Shelf.create_time)).one()

    assert found == moment
    assert found.tzinfo is UTC


def test_a_moment_in_another_zone_is_the_same_moment(database: Database):
    """What is kept is UTC, whatever zone it was said in."""
    moment = datetime(2020, 6, 3, 0, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with database.session_scope() as session:
        session.add(Shelf(name="a", create_time=moment))

    with database.session_scope(read_only=True) as session:
        assert session.scalars(select(Shelf.create_time)).one() == moment
        assert session.scalars(select(Shelf).where(Shelf.create_time == moment)).one().name == "a"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_the_connections_time_zone_changes_nothing(database: Database):
    """PostgreSQL answers in the zone of the session; the type answers in UTC. SQLite has no zones."""
    moment = MOMENTS[0]
    with database.session_scope() as session:
        session.connection().exec_driver_sql("SET LOCAL TIME ZONE 'Asia/Kathmandu'")

        found = session.scalar(select(literal(moment, UtcDateTime())))

    assert found == moment
    assert found.tzinfo is UTC


def test_a_moment_without_a_zone_is_refused(database: Database):
    """A naive time is ambiguous; the message says what to write."""
    with database.session_scope() as session, pytest.raises(StatementError, match=r"utc_now"):
        session.execute(insert(Shelf).values(name="a", create_time=datetime(2020, 1, 1)))  # noqa: DTZ001  # that is the fault


def test_times_sort_as_times_also_those_of_raw_sql(database: Database, sql: RawSql):
    """The database's own default is written in the same format as ours; SQLite's has milliseconds."""
    with database.session_scope() as session:
        session.add(Shelf(name="before", create_time=datetime.now(UTC) - timedelta(seconds=1)))
    sql("INSERT INTO shelves (name) VALUES ('by raw sql')")
    with database.session_scope() as session:
        session.add(Shelf(name="after", create_time=datetime.now(UTC) + timedelta(seconds=1)))

    with database.session_scope(read_only=True) as session:
        rows = session.execute(select(Shelf.name, Shelf.create_time).order_by(Shelf.create_time)).all()

    assert [row.name for row in rows] == ["before", "by raw sql", "after"]
    assert rows[0].create_time - timedelta(milliseconds=1) <= rows[1].create_time <= rows[2].create_time


def test_raw_sql_may_leave_out_what_the_server_makes(database: Database, sql: RawSql):
    """A row of raw SQL comes back as one of the mapped class, with the defaults of the database."""
    sql("INSERT INTO books (id, create_time) VALUES ('f2ee55c638084ebfb35a00c003670ad9', '2020-03-01')")
    sql("INSERT INTO books (id) VALUES ('00000000000000000000000000000000')")

    book = load_book(database, "f2ee55c638084ebfb35a00c003670ad9")
    other = load_book(database, "0" * 32)

    assert (book.title, book.notes, book.is_lent, book.version, book.shelf_id) == (
        "a book",
        {},
        False,
        1,
        None,
    )
    # In the time zone of the connection, which is the cluster's.
    assert book.create_time.date().isoformat() in ("2020-03-01", "2020-02-29")
    assert abs(datetime.now(UTC) - other.create_time) < timedelta(minutes=1)


def test_new_ids_are_32_hex_digits_and_differ():
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in ids)


def test_a_row_has_python_values_right_after_its_flush(database: Database):
    """Nothing is left to be loaded later: a lazy load outside of `run` would stop the event loop."""
    with database.session_scope() as session:
        book = Book()
        session.add(book)
        session.flush()
        session.expunge(book)

    # Without its session, it would raise for what it has not.
    assert {column.key: getattr(book, column.key) for column in Book.__table__.columns}["shelf_id"] is None
