"""The session is in a context variable."""

from __future__ import annotations

from sqlalchemy import func, select

from db.scope import current_session
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import read_body
from handlers.scoped import ContextvarHandler
from server.compare.handlers import EntryNew
from server.compare.model import Entry


def count_entries(*, text: str) -> int:
    session = current_session()
    return session.scalars(select(func.count()).where(Entry.text == text)).one()


def number_entry(*, text: str) -> int:
    session = current_session()
    session.add(Entry(text=text))
    session.flush()
    return count_entries(text=text)


class NumberHandler(ContextvarHandler, ApiHandler):
    async def post(self) -> None:
        new = await read_body(self, EntryNew)
        number = await self.run(number_entry, text=new.text)
        self.write_json({"number": number}, 201)
