"""Notes: an application of its own on `ApiHandler` and `Database`, whole.

``python -m tests.examples.notes [URL [PORT]]``
"""

import asyncio
import contextlib
import sys

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler
from server.pages import pages_for


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


def list_notes(session: Session) -> list[str]:
    return list(session.scalars(select(Note.text).order_by(Note.id)))


def create_note(session: Session, *, text: str) -> int:
    session.add(note := Note(text=text))
    session.flush()
    return note.id


class NotesHandler(ApiHandler):
    async def get(self) -> None:
        self.write_json(await self.run(list_notes, self.session))

    async def post(self) -> None:
        text = self.get_body_argument("text")
        self.write_json(await self.run(create_note, self.session, text=text), 201)


async def serve(url: str = "sqlite:///notes.db", port: str = "8888") -> None:
    database = Database(DatabaseSettings(url=url))
    database.create_all(Base.metadata)  # and onfinish's own two tables: commit markers, idempotency keys
    application = Application([("/notes", NotesHandler), *pages_for(database)], database=database)
    application.listen(int(port), "127.0.0.1")  # and /-/live, /-/requests for callers on this machine
    try:
        await asyncio.Event().wait()
    finally:
        await database.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*sys.argv[1:]))
