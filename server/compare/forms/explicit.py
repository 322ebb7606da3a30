"""The session is an argument."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from handlers.json_api.api import ApiHandler
from handlers.json_api.body import read_body
from server.compare.handlers import EntryNew
from server.compare.model import Entry


def count_entries(session: Session, *, text: str) -> int:
    return session.scalars(select(func.count()).where(Entry.text == text)).one()


def number_entry(session: Session, *, text: str) -> int:
    session.add(Entry(text=text))
    session.flush()
    return count_entries(session, text=text)


class NumberHandler(ApiHandler):
    async def post(self) -> None:
        new = await read_body(self, EntryNew)
        number = await self.run(number_entry, self.session, text=new.text)
        self.write_json({"number": number}, 201)
