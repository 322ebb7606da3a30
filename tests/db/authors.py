"""Authors and their poems: rows that load one another."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tests.fixtures.databases import RawSql


class Base(DeclarativeBase):
    """The base of these two tables. Lives as long as the process."""


class Author(Base):
    """A row of ``authors``. Lives as long as the session that loaded it."""

    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    biography: Mapped[str] = mapped_column(String(64), deferred=True)
    poems: Mapped[list[Poem]] = relationship(back_populates="author", order_by="Poem.id")


class Poem(Base):
    """A row of ``poems``. Lives as long as the session that loaded it."""

    __tablename__ = "poems"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(64))
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="poems")


def create_authors(sql: RawSql, *, authors: int = 6) -> None:
    """Make the tables, with authors who have two poems each."""
    sql("CREATE TABLE authors (id integer PRIMARY KEY, name varchar(64), biography varchar(64))")
    sql("CREATE TABLE poems (id integer PRIMARY KEY, title varchar(64), author_id integer)")
    for number in range(1, authors + 1):
        sql(f"INSERT INTO authors VALUES ({number}, 'author {number}', 'born')")
        for poem in (2 * number, 2 * number + 1):
            sql(f"INSERT INTO poems VALUES ({poem}, 'poem {poem}', {number})")


def titles(session: Session) -> list[str]:
    """The titles of all poems, author by author."""
    found = []
    for author in session.scalars(select(Author).order_by(Author.id)):
        found += [poem.title for poem in author.poems]  # loads lazily
    return found


def list_authors(session: Session) -> Sequence[Author]:
    """All authors."""
    return session.scalars(select(Author).order_by(Author.id)).all()
