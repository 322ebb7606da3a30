"""Two tables for tests of what lies below an application's own: shelves, and the books that stand on them.

They have a declarative base of their own and no migration: the fixture `shelves` makes them in a test's
database.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
    Row,
    String,
    and_,
    column,
    false,
    make_url,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from db import Database
from db.base import NAMING_CONVENTION, Json, SerialId, UtcDateTime, new_id, now, refusals, utc_now
from db.errors import Conflict, NotFound
from db.portable.taking import take_rows
from db.portable.types import chars, empty_json

NAME_CHARS_MAX = 64

MARIADB = {"mariadb_engine": "InnoDB", "mariadb_charset": "utf8mb4", "mariadb_collate": "utf8mb4_bin"}
"""Whatever the server's own are: as the kernel's tables."""


class Base(DeclarativeBase):
    """The base of these two tables. Lives as long as the process."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Shelf(Base):
    """A row of ``shelves``. Lives as long as the session that loaded it."""

    __tablename__ = "shelves"
    __table_args__ = (
        CheckConstraint(chars(column("name")).between(1, NAME_CHARS_MAX), name="name"),
        MARIADB,
    )

    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), unique=True)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())


class Book(Base):
    """A row of ``books``. Lives as long as the session that loaded it."""

    __tablename__ = "books"
    __table_args__ = (
        CheckConstraint(and_(chars(column("id")) == 32, text("id = lower(id)")), name="id"),
        CheckConstraint(chars(column("title")).between(1, NAME_CHARS_MAX), name="title"),
        CheckConstraint("format IN ('folio', 'quarto', 'octavo')", name="format"),
        # MariaDB locks each row that it looks at: without an index, all books that are not lent.
        Index(None, "is_lent", "create_time", "id"),
        MARIADB,
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    title: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), default="a book", server_default="a book")
    format: Mapped[str] = mapped_column(String(8), default="octavo", server_default="octavo")
    is_lent: Mapped[bool] = mapped_column(default=False, server_default=text("'0'"))
    pages: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    notes: Mapped[dict[str, Any]] = mapped_column(Json(), default=dict, server_default=empty_json())
    shelf_id: Mapped[int | None] = mapped_column(SerialId, ForeignKey("shelves.id"))
    version: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())


_TAKEN = "a shelf with this name exists already"

refusals.update(
    {
        "uq_shelves_name": _TAKEN,
        "shelves.name": _TAKEN,
        "ck_shelves_name": f"a shelf's name has 1 to {NAME_CHARS_MAX} characters",
        "pk_books": "a book with this id exists already",
        "books.id": "a book with this id exists already",
        "fk_books_shelf_id_shelves": "there is no such shelf, or books stand on it",
        "ck_books_id": "a book's id is 32 lower-case hex digits",
        "ck_books_title": f"a book's title has 1 to {NAME_CHARS_MAX} characters",
        "ck_books_format": "a book's format is folio, quarto or octavo",
    }
)


def create_shelf(session: Session, *, name: str) -> Shelf:
    """Add a shelf and flush it.

    Raises:
        Conflict: the name is taken. The transaction can only be rolled back.
    """
    shelf = Shelf(name=name)
    session.add(shelf)
    session.flush()
    return shelf


def get_shelf(session: Session, *, shelf_id: int) -> Shelf:
    """The shelf.

    Raises:
        NotFound: no such shelf. The session stays usable.
    """
    shelf = session.get(Shelf, shelf_id)
    if shelf is None:
        raise NotFound("shelf", shelf_id)
    return shelf


def list_shelves(session: Session, *, limit: int = 100, name: str | None = None) -> Sequence[Shelf]:
    """The shelves, or those of a name, oldest first."""
    statement = select(Shelf).order_by(Shelf.id).limit(limit)
    return session.scalars(statement if name is None else statement.where(Shelf.name == name)).all()


def update_shelf(session: Session, *, shelf_id: int, name: str) -> Shelf:
    """Give a shelf another name, under its row's lock.

    Raises:
        NotFound: no such shelf. The session stays usable.
    """
    shelf = session.get(Shelf, shelf_id, with_for_update=True, populate_existing=True)
    if shelf is None:
        raise NotFound("shelf", shelf_id)
    shelf.name = name
    session.flush()
    return shelf


def delete_shelf(session: Session, *, shelf_id: int) -> None:
    """Take a shelf away.

    Raises:
        NotFound: no such shelf. The session stays usable.
        Conflict: books stand on it. The transaction can only be rolled back.
    """
    session.delete(get_shelf(session, shelf_id=shelf_id))
    session.flush()


def create_book(session: Session, **fields: Any) -> Book:
    """Add a book and flush it."""
    book = Book(**fields)
    session.add(book)
    session.flush()
    return book


def get_book(session: Session, *, book_id: str) -> Book:
    """The book.

    Raises:
        NotFound: no such book. The session stays usable.
    """
    book = session.get(Book, book_id)
    if book is None:
        raise NotFound("book", book_id)
    return book


def list_books(session: Session, *, limit: int = 100) -> Sequence[Book]:
    """The newest books."""
    return session.scalars(select(Book).order_by(Book.create_time.desc(), Book.id).limit(limit)).all()


def update_book(session: Session, *, book_id: str, pages: int) -> Book:
    """Give a book another number of pages, under its row's lock.

    Raises:
        NotFound: no such book. The session stays usable.
    """
    book = lock_book(session, book_id=book_id)
    book.pages = pages
    session.flush()
    return book


def delete_book(session: Session, *, book_id: str) -> None:
    """Take a book away.

    Raises:
        NotFound: no such book. The session stays usable.
    """
    session.delete(lock_book(session, book_id=book_id))
    session.flush()


def lock_book(session: Session, *, book_id: str) -> Book:
    """The book, not to be changed by another transaction before this one ends.

    Raises:
        NotFound: no such book. The session stays usable.
    """
    book = session.get(Book, book_id, with_for_update=True, populate_existing=True)
    if book is None:
        raise NotFound("book", book_id)
    return book


def lend_book(session: Session, *, book_id: str) -> Book:
    """Lend a book.

    Raises:
        NotFound: no such book. The session stays usable.
        Conflict: it is lent already. The session stays usable.
    """
    book = lock_book(session, book_id=book_id)
    if book.is_lent:
        raise Conflict("the book is lent already")
    book.is_lent = True
    session.flush()
    return book


def lend_books(session: Session, *, limit: int) -> Sequence[Row[Any]]:
    """Take the oldest books that are not lent; another transaction is given others."""
    order_by = [Book.create_time, Book.id]
    values = {Book.is_lent: True, Book.version: Book.version + 1}
    taken = take_rows(
        session,
        Book,
        columns=[*Book.__table__.columns],
        where=[Book.is_lent == false()],
        order_by=order_by,
        limit=limit,
        values=values,
    )
    return sorted(taken, key=lambda book: (book.create_time, book.id))


def stream_books(session: Session, *, page_size: int) -> Iterator[Sequence[Row[Any]]]:
    """All books in the order of their ids, a page of rows at a time, over a server-side cursor."""
    statement = select(*Book.__table__.columns).order_by(Book.id)
    yield from session.execute(statement, execution_options={"yield_per": page_size}).partitions()


def add_shelf(database: Database, name: str) -> int:
    """Commit a shelf; its id."""
    with database.session_scope() as session:
        return create_shelf(session, name=name).id


def add_book(database: Database, **fields: Any) -> str:
    """Commit a book; its id."""
    with database.session_scope() as session:
        return create_book(session, **fields).id


def load_book(database: Database, book_id: str) -> Book:
    """The book as another transaction sees it, without its session."""
    with database.session_scope(read_only=True) as session:
        book = session.get_one(Book, book_id)
        session.expunge(book)
        return book


@functools.cache
def ddl(backend: str) -> list[str]:
    """The statements that make the two tables."""
    dialect = make_url(f"{backend}://").get_dialect()()
    tables = Base.metadata.sorted_tables
    indexes = [index for table in tables for index in table.indexes]
    return [
        *(str(CreateTable(table).compile(dialect=dialect)) for table in tables),
        *(str(CreateIndex(index).compile(dialect=dialect)) for index in indexes),
    ]
