"""A chat over WebSockets: each message is a transaction, and no line is sent that was not committed.

``python -m tests.examples.chat [URL [PORT]]``
"""

import asyncio
import contextlib
import sys
from typing import ClassVar

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.schema import migrate
from handlers import SessionWebSocketHandler


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(200), unique=True)


def create_line(session: Session, *, text: str) -> int:
    session.add(line := Line(text=text))
    session.flush()
    return line.id


class ChatHandler(SessionWebSocketHandler):
    room: ClassVar[set["ChatHandler"]] = set()

    def open(self) -> None:
        self.room.add(self)

    def on_close(self) -> None:
        self.room.discard(self)

    async def handle_message(self, message: str | bytes) -> None:
        number = await self.run(create_line, self.session, text=str(message))
        for each in self.room:
            each.write_message({"number": number, "text": str(message)})


async def serve(url: str = "sqlite:///chat.db", port: str = "8888") -> None:
    settings = DatabaseSettings(url=url)
    migrate.upgrade(settings, "kernel")
    database = Database(settings)
    Base.metadata.create_all(database.writer.scopes)
    Application([("/chat", ChatHandler)], database=database).listen(int(port), "127.0.0.1")
    try:
        await asyncio.Event().wait()
    finally:
        await database.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*sys.argv[1:]))
