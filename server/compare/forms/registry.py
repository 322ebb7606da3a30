"""The session is in a registry, keyed by a context variable."""

from __future__ import annotations

from sqlalchemy import func, select

from db.scope.registry import Registry
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import read_body
from handlers.scoped import ScopedHandler
from server.compare.handlers import EntryNew
from server.compare.model import Entry

requests = Registry()
sessions = requests.sessions  # and at the start of the program: sessions.configure(bind=engine)


def count_entries(*, text: str) -> int:
    return sessions.scalars(select(func.count()).where(Entry.text == text)).one()


def number_entry(*, text: str) -> int:
    sessions.add(Entry(text=text))
    sessions.flush()
    return count_entries(text=text)


class NumberHandler(ScopedHandler, ApiHandler):
    scope = requests

    async def post(self) -> None:
        new = await read_body(self, EntryNew)
        number = await self.run(number_entry, text=new.text)
        self.write_json({"number": number}, 201)
