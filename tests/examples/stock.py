"""Stock: a signal's listeners write in the session of the request that sent it; no argument reaches them.

``python -m tests.examples.stock [URL [PORT]]``
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.errors import Conflict
from db.scope import current_session, entered
from handlers import ApiHandler, ContextvarHandler, ContextvarWebSocketHandler


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    name: Mapped[str] = mapped_column(primary_key=True)
    pieces: Mapped[int]


class Movement(Base):
    __tablename__ = "movements"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


moved: list[Callable[[str, int], object]] = []
"""A signal, as a library has it: it calls its listeners with what it was sent, and knows of no session."""


def note_movement(name: str, pieces: int) -> None:
    current_session().add(Movement(text=f"{pieces:+} {name}"))


moved.append(note_movement)


def move(name: str, pieces: int) -> int:
    """Add pieces to an item, or take some away; returns how many there are."""
    session = current_session()
    item = session.get(Item, name) or Item(name=name, pieces=0)
    session.add(item)
    item.pieces += pieces
    for listener in moved:
        listener(name, pieces)
    session.flush()
    if item.pieces < 0:
        raise Conflict(f"there are only {item.pieces - pieces} of {name}")
    return item.pieces


def list_stock() -> dict[str, int]:
    items = current_session().scalars(select(Item).order_by(Item.name))
    return {item.name: item.pieces for item in items}


class StockHandler(ContextvarHandler, ApiHandler):
    async def get(self) -> None:
        self.write_json(await self.run(list_stock))

    async def post(self) -> None:
        name, pieces = self.get_body_argument("name"), int(self.get_body_argument("pieces"))
        self.write_json(await self.run(move, name, pieces))


class ScannerHandler(ContextvarWebSocketHandler):
    """A scanner at the door: each message is a piece that is taken away."""

    async def handle_message(self, message: str | bytes) -> None:
        self.write_message({"left": await self.run(move, str(message), -1)})


async def restock(database: Database, *, name: str, pieces: int) -> None:
    """A job: it has a unit of work of its own, in which the same model code finds the session."""
    async with database.unit_of_work(label="restock") as unit:
        with entered(unit.session):
            await unit.run(move, name, pieces)


ROUTES = [("/stock", StockHandler), ("/scanner", ScannerHandler)]


async def serve(url: str = "sqlite:///stock.db", port: str = "8888") -> None:
    database = Database(DatabaseSettings(url=url))
    database.create_all(Base.metadata)
    await restock(database, name="pears", pieces=10)
    Application(ROUTES, database=database).listen(int(port), "127.0.0.1")
    try:
        await asyncio.Event().wait()
    finally:
        await database.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*sys.argv[1:]))
