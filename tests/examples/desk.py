"""A help desk: what a handler does besides `run`. Pages of HTML, a log-in, files, an export, an API.

``python -m tests.examples.desk [URL [PORT]]``, then http://127.0.0.1:8888/tickets in a browser.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Sequence
from typing import Any

from sqlalchemy import UniqueConstraint, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.template import DictLoader
from tornado.web import Application, HTTPError, authenticated, stream_request_body

from conf import DatabaseSettings
from db import Database
from db.base import refusals
from db.errors import NotFound
from handlers import ApiHandler, Body, Problem, SessionHandler, read_body

log = logging.getLogger("desk")

TEMPLATES = {
    "tickets.html": """<h1>Tickets of {{ current_user }}</h1>
<ul>{% for ticket in tickets %}<li>{{ ticket.title }}</li>{% end %}</ul>
<form method="post">{% module xsrf_form_html() %}<input name="title"><button>Open</button></form>
""",
    "login.html": '<form method="post">{% module xsrf_form_html() %}Name: <input name="name"></form>\n',
}


class Base(DeclarativeBase):
    pass


class Ticket(Base):
    __tablename__ = "tickets"
    __table_args__ = (UniqueConstraint("title", name="uq_tickets_title"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author: Mapped[str]
    size: Mapped[int] = mapped_column(default=0)


refusals.update(
    {
        "uq_tickets_title": "there is such a ticket already",
        "tickets.title": "there is such a ticket already",  # SQLite names the columns
    }
)


class Piece(Base):
    """A part of a ticket's file."""

    __tablename__ = "pieces"
    id: Mapped[int] = mapped_column(primary_key=True)
    ticket_id: Mapped[int]
    content: Mapped[bytes]


class Opened(Base):
    """How many tickets each author has opened. A row that many requests change."""

    __tablename__ = "opened"
    author: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]


class Refusal(Base):
    __tablename__ = "refusals"
    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str]


def create_ticket(session: Session, *, title: str, author: str) -> int:
    session.add(ticket := Ticket(title=title, author=author))
    session.flush()
    return ticket.id


def get_ticket(session: Session, *, ticket_id: int) -> Ticket:
    if (ticket := session.get(Ticket, ticket_id)) is None:
        raise NotFound("ticket", ticket_id)
    return ticket


def tickets_after(session: Session, *, ticket_id: int = 0, limit: int = 1000) -> Sequence[Ticket]:
    found = select(Ticket).where(Ticket.id > ticket_id).order_by(Ticket.id).limit(limit)
    return session.scalars(found).all()


def find_titles(session: Session, *, words: str) -> list[str]:
    return list(session.scalars(select(Ticket.title).where(Ticket.title.contains(words))))


def count_tickets(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Ticket)) or 0


def count_opened(session: Session, *, author: str) -> None:
    row = session.get(Opened, author, with_for_update=True) or Opened(author=author, count=0)
    row.count += 1
    session.add(row)


def note_refusal(session: Session, *, author: str) -> None:
    session.add(Refusal(author=author))


def add_piece(session: Session, *, ticket_id: int, content: bytes) -> None:
    ticket = get_ticket(session, ticket_id=ticket_id)
    ticket.size += len(content)
    session.add(Piece(ticket_id=ticket_id, content=content))


def read_file(session: Session, *, ticket_id: int) -> bytes:
    pieces = session.scalars(select(Piece.content).where(Piece.ticket_id == ticket_id).order_by(Piece.id))
    return b"".join(pieces)


def send_mail(author: str, title: str) -> None:
    log.info("%s: %s is open", author, title)


class DeskHandler(SessionHandler):
    def get_current_user(self) -> str | None:
        name = self.get_signed_cookie("name")
        return None if name is None else name.decode()

    def prepare(self) -> Awaitable[None] | Any:
        if self.current_user == "staff":
            self.timeout_s = 120.0  # by user; else the handler's own, by kind of work
        return super().prepare()


class LoginHandler(DeskHandler):
    def get(self) -> None:
        self.render("login.html")

    def post(self) -> None:
        # Any name is let in: the check of a password belongs here, by `await self.run(…)`.
        self.set_signed_cookie("name", self.get_body_argument("name"), httponly=True, samesite="Lax")
        self.redirect("/tickets")


class TicketsHandler(DeskHandler):
    @authenticated
    async def get(self) -> None:
        self.render("tickets.html", tickets=await self.run(tickets_after, self.session))

    @authenticated
    async def post(self) -> None:
        author, title = self.current_user, self.get_body_argument("title")
        await self.run(create_ticket, self.session, title=title, author=author)
        self.before_commit(count_opened, author=author)
        self.on_commit(send_mail, author, title)
        self.redirect("/tickets")


class SearchHandler(DeskHandler):
    read_only = True  # a POST that only reads: on the reader, where the database refuses writes
    timeout_s = 2.0

    async def post(self) -> None:
        words = self.get_body_argument("words")
        self.write({"titles": await self.run(find_titles, self.session, words=words)})


class SummaryHandler(DeskHandler):
    snapshot = True  # both reads see the same state

    async def get(self) -> None:
        count = await self.run(count_tickets, self.session)
        first = await self.run(tickets_after, self.session, limit=1)
        self.write({"count": count, "first": [ticket.title for ticket in first]})


class ExportHandler(DeskHandler):
    streams = True  # sent while it is read; read-only, in one snapshot
    timeout_s = 600.0

    async def get(self) -> None:
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        last = 0
        while tickets := await self.run(tickets_after, self.session, ticket_id=last):
            self.write("".join(f"{ticket.id},{ticket.author}\r\n" for ticket in tickets))
            await self.flush()  # waits for a slow client
            last = tickets[-1].id


class MergeHandler(DeskHandler):
    isolation = "SERIALIZABLE"  # for this handler's transaction alone
    retry = False  # a conflict is 503 at once, and not three attempts
    cancel_on_disconnect = True  # also a write: without its client nothing needs it

    @authenticated
    async def post(self) -> None:
        self.in_new_transaction(note_refusal, author=self.current_user)  # kept, whatever follows
        raise Problem(409, "these tickets cannot be merged", headers={"Retry-After": "60"})


@stream_request_body
class FileHandler(DeskHandler):
    async def prepare(self) -> None:
        super().prepare()
        if self.request.method == "PUT" and self.current_user is None:
            raise HTTPError(403)  # before any of the body is read

    async def data_received(self, chunk: bytes) -> None:
        ticket_id = int(self.path_args[0])
        await self.run(add_piece, self.session, ticket_id=ticket_id, content=chunk)

    async def put(self, ticket_id: str) -> None:
        self.set_status(204)

    async def get(self, ticket_id: str) -> None:
        content = await self.run(read_file, self.session, ticket_id=int(ticket_id))
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", f'attachment; filename="ticket-{ticket_id}"')
        self.write(content)


class TicketNew(Body):
    title: str


class TicketsApi(DeskHandler, ApiHandler):
    async def post(self) -> None:
        if self.current_user is None:
            raise Problem(401, "log in first")
        new = await read_body(self, TicketNew)
        author = self.current_user
        self.write_json(
            {"id": await self.run(create_ticket, self.session, title=new.title, author=author)}, 201
        )


ROUTES: list[Any] = [
    ("/login", LoginHandler),
    ("/tickets", TicketsHandler),
    ("/search", SearchHandler),
    ("/summary", SummaryHandler),
    ("/export", ExportHandler),
    ("/merge", MergeHandler),
    ("/tickets/([0-9]{1,9})/file", FileHandler),
    ("/api/tickets", TicketsApi),
]


def make_app(database: Database, *, secret: str) -> Application:
    return Application(
        ROUTES,
        database=database,
        cookie_secret=secret,  # of the environment, never of the code
        login_url="/login",
        xsrf_cookies=True,
        template_loader=DictLoader(TEMPLATES),
    )


async def serve(url: str = "sqlite:///desk.db", port: str = "8888") -> None:
    database = Database(DatabaseSettings(url=url))
    await asyncio.to_thread(database.create_all, Base.metadata)
    make_app(database, secret="an example's").listen(int(port), "127.0.0.1")
    try:
        await asyncio.Event().wait()
    finally:
        await database.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*sys.argv[1:]))
