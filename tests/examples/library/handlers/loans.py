"""Books and their loans."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Row

from handlers import Body, IdempotentHandler, operation
from tests.examples.library.db import books, loans
from tests.examples.library.handlers.live import announce
from tests.examples.library.handlers.members import MemberHandler

log = logging.getLogger("library")


class BookNew(Body):
    title: str = Field(min_length=1, max_length=200)


class BookOut(BaseModel):
    id: int
    title: str


class LoanNew(Body):
    book_id: int
    days: int = Field(default=28, ge=1, le=90)


class LoanOut(BaseModel):
    id: int
    book_id: int
    due_time: datetime
    return_time: datetime | None


class OverdueOut(BaseModel):
    id: int
    title: str
    name: str
    due_time: datetime


class Reminded(BaseModel):
    count: int


def send_reminder(name: str, title: str) -> None:
    """Would send a mail, and may block: it is called in a thread."""
    log.info("%s: please return %r", name, title)


class BooksHandler(MemberHandler):
    @operation(answer=list[BookOut])
    async def get(self) -> Sequence[books.Book]:
        return await self.run(books.list_books, self.session)

    @operation(answer=BookOut, status=201)
    async def post(self, new: BookNew) -> books.Book:
        return await self.run(books.create_book, self.session, **new.given())


class LoansHandler(MemberHandler, IdempotentHandler):
    @operation(answer=LoanOut, status=201)
    async def post(self, new: LoanNew) -> loans.Loan:
        member_id = self.current_user.id
        self.on_commit(announce)
        return await self.run(loans.create_loan, self.session, member_id=member_id, **new.model_dump())


class ReturnHandler(MemberHandler):
    @operation(answer=LoanOut)
    async def post(self, loan_id: int) -> loans.Loan:
        member_id = self.current_user.id
        self.on_commit(announce)
        return await self.run(loans.return_book, self.session, loan_id=loan_id, member_id=member_id)


class OverdueHandler(MemberHandler):
    @operation(answer=list[OverdueOut])
    async def get(self) -> Sequence[Row[Any]]:
        return await self.run(loans.list_overdue, self.session)


class RemindersHandler(MemberHandler):
    @operation(answer=Reminded)
    async def post(self) -> Reminded:
        due = await self.run(loans.note_reminders, self.session)
        for name, title in due:
            self.on_commit(send_reminder, name, title)
        return Reminded(count=len(due))


class ExportHandler(MemberHandler):
    streams = True
    timeout_s = 600.0

    async def get(self) -> None:
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        pieces = loans.csv_of_loans(self.session)
        while (piece := await self.run(next, pieces, None)) is not None:
            self.write(piece)
            await self.flush()
