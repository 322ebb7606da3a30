"""Loans: a book is lent to one member at a time."""

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ForeignKey, Index, Row, Select, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import SerialId, UtcDateTime, refusals, utc_now
from db.errors import Conflict, NotFound
from tests.examples.library.db.base import Base
from tests.examples.library.db.books import Book
from tests.examples.library.db.members import Member

OPEN = text("return_time IS NULL")
ROWS_AT_ONCE = 500


class Loan(Base):
    __tablename__ = "library_loans"
    __table_args__ = (
        Index("uq_library_loans_open", "book_id", unique=True, postgresql_where=OPEN, sqlite_where=OPEN),
    )
    id: Mapped[int] = mapped_column(SerialId, primary_key=True)
    book_id: Mapped[int] = mapped_column(SerialId, ForeignKey("library_books.id"))
    member_id: Mapped[int] = mapped_column(SerialId, ForeignKey("library_members.id"))
    due_time: Mapped[datetime] = mapped_column(UtcDateTime)
    return_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    remind_time: Mapped[datetime | None] = mapped_column(UtcDateTime)


LENT = "the book is lent already"
refusals.update(
    {
        "uq_library_loans_open": LENT,
        "library_loans.book_id": LENT,
        "fk_library_loans_book_id_library_books": "there is no such book",
    }
)


def create_loan(session: Session, *, book_id: int, member_id: int, days: int) -> Loan:
    """Two requests that lend a book at once are decided by the index, not by a look before."""
    if session.get(Book, book_id) is None:
        raise NotFound("book", book_id)
    loan = Loan(book_id=book_id, member_id=member_id, due_time=utc_now() + timedelta(days=days))
    session.add(loan)
    session.flush()
    return loan


def return_book(session: Session, *, loan_id: int, member_id: int) -> Loan:
    loan = session.get(Loan, loan_id, with_for_update=True)
    if loan is None or loan.member_id != member_id:
        raise NotFound("loan", loan_id)
    if loan.return_time is not None:
        raise Conflict("the book was returned already")
    loan.return_time = utc_now()
    session.flush()
    return loan


def list_lent(session: Session) -> list[str]:
    """The titles of the books that are lent."""
    statement = select(Book.title).join(Loan).where(Loan.return_time.is_(None)).order_by(Book.title)
    return list(session.scalars(statement))


def list_overdue(session: Session) -> Sequence[Row[Any]]:
    return session.execute(_overdue(Loan.id, Loan.due_time, Book.title, Member.name)).all()


def note_reminders(session: Session) -> list[tuple[str, str]]:
    """Each loan that is overdue is reminded of once. Returns the names of the members, and the titles."""
    statement = _overdue(Loan, Member.name, Book.title).where(Loan.remind_time.is_(None))
    due = session.execute(statement.with_for_update(of=Loan)).all()
    for loan, _, _ in due:
        loan.remind_time = utc_now()
    return [(name, title) for _, name, title in due]


def csv_of_loans(session: Session) -> Iterator[str]:
    """All loans, some hundred lines at a time, over a server-side cursor."""
    statement = select(Loan.id, Book.title, Member.name, Loan.due_time, Loan.return_time)
    statement = statement.join(Book).join(Member, Loan.member_id == Member.id).order_by(Loan.id)
    yield "loan,title,member,due,returned\r\n"
    for rows in session.execute(statement, execution_options={"yield_per": ROWS_AT_ONCE}).partitions():
        lines = io.StringIO()
        csv.writer(lines).writerows(rows)
        yield lines.getvalue()


def _overdue(*columns: Any) -> Select[Any]:
    joined = select(*columns).select_from(Loan).join(Book).join(Member, Loan.member_id == Member.id)
    return joined.where(Loan.return_time.is_(None), Loan.due_time < utc_now()).order_by(
        Loan.due_time, Loan.id
    )
