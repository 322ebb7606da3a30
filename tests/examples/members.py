"""Members: a log-in check in `prepare` that writes, and redirects requests of unknown members.

``python -m tests.examples.members [URL [PORT]]``, then http://127.0.0.1:8888/book in a browser.
"""

import asyncio
import contextlib
import secrets
import sys

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application, RequestHandler

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler


class Base(DeclarativeBase):
    pass


class Member(Base):
    __tablename__ = "members"
    token: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class Knock(Base):
    """A request that was not let in."""

    __tablename__ = "knocks"
    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]


class Entry(Base):
    """A line in the members' book."""

    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def create_member(session: Session, *, name: str) -> str:
    token = secrets.token_urlsafe()
    session.add(Member(token=token, name=name))
    return token


def admit(session: Session, *, token: str | None, path: str) -> str | None:
    """The member's name; None for a stranger, whose knock is written down."""
    member = session.get(Member, token) if token else None
    if member is None:
        session.add(Knock(path=path))
        return None
    return member.name


def create_entry(session: Session, *, text: str) -> None:
    session.add(Entry(text=text))


class MembersHandler(ApiHandler):
    read_only = False  # the check writes, also in a GET

    async def prepare(self) -> None:
        super().prepare()
        name = await self.run(admit, self.session, token=self.get_cookie("token"), path=self.request.path)
        if name is None:
            self.redirect("/login")  # ends the request: the knock is kept, and get() or post() never runs
        else:
            self.current_user = name


class BookHandler(MembersHandler):
    async def get(self) -> None:
        self.write(f"Welcome, {self.current_user}\n")

    async def post(self) -> None:
        text = f"{self.current_user}: {self.get_body_argument('text')}"
        await self.run(create_entry, self.session, text=text)
        self.redirect("/book")


class LoginHandler(ApiHandler):
    async def get(self) -> None:
        self.write("<form method=post>Your name: <input name=name></form>\n")

    async def post(self) -> None:
        # Any known name is let in: a password's check belongs here.
        token = await self.run(create_member, self.session, name=self.get_body_argument("name"))
        self.set_cookie("token", token, httponly=True, samesite="Strict")
        self.redirect("/book")


ROUTES: list[tuple[str, type[RequestHandler]]] = [("/book", BookHandler), ("/login", LoginHandler)]


async def serve(url: str = "sqlite:///members.db", port: str = "8888") -> None:
    database = Database(DatabaseSettings(url=url))
    database.create_all(Base.metadata)
    Application(ROUTES, database=database).listen(int(port), "127.0.0.1")
    try:
        await asyncio.Event().wait()
    finally:
        await database.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*sys.argv[1:]))
