"""Books."""

from collections.abc import Sequence

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import SerialId
from tests.examples.library.db.base import Base


class Book(Base):
    __tablename__ = "library_books"
    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))


def create_book(session: Session, *, title: str) -> Book:
    session.add(book := Book(title=title))
    session.flush()
    return book


def list_books(session: Session) -> Sequence[Book]:
    return session.scalars(select(Book).order_by(Book.title, Book.id)).all()
