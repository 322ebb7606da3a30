"""Handlers and sockets beside those of `tests.service`."""

from __future__ import annotations

import time

from tornado.routing import URLSpec

from handlers import ApiHandler, SessionHandler
from handlers.json_api.body import Body
from handlers.openapi.operation import operation
from handlers.websocket import SessionWebSocketHandler
from tests.service import model


class ExportHandler(ApiHandler):
    """Streams the titles in one snapshot."""

    streams = True

    async def get(self) -> None:
        for book in await self.run(model.list_books, self.session, limit=1000):
            self.write(book.id + "\n")
            await self.flush()


class HurriedExportHandler(ApiHandler):
    """Streams a line before it has read anything."""

    streams = True

    async def get(self) -> None:
        self.write("begins\n")
        await self.flush()
        await self.run(model.list_books, self.session, limit=1)
        await self.flush()


class SnapshotHandler(ApiHandler):
    """A read in REPEATABLE READ, whose snapshot is taken by the look at the marker."""

    snapshot = True

    async def get(self, book_id: str) -> None:
        book = await self.run(model.get_book, self.session, book_id=book_id)
        self.write_json({"id": book.id})


class TaggedHandler(SessionHandler):
    """A shelf's name, with Tornado's ETag."""

    async def get(self, shelf_id: str) -> None:
        shelf = await self.run(model.get_shelf, self.session, shelf_id=int(shelf_id))
        self.write(shelf.name)


class WriteInReadHandler(ApiHandler):
    """A GET that tries to write."""

    async def get(self) -> None:
        await self.run(model.create_shelf, self.session, name="never")


class ReadingSocket(SessionWebSocketHandler):
    """A message asks for a book; "write …" has one written by what follows."""

    read_only = True

    async def handle_message(self, message: str | bytes) -> None:
        book_id = str(message).removeprefix("write ")
        if book_id != message:
            self.in_new_transaction(model.create_book, id=book_id, title="by a socket", pages=0, notes={})
            self.write_message({"written": book_id})
            return
        book = await self.run(model.get_book, self.session, book_id=book_id)
        self.write_message({"id": book.id, "lost": self.lost_write})


class RetriedSocket(SessionWebSocketHandler):
    """A message whose first attempt fails behind its read."""

    read_only = True
    retry_on = (KeyError,)
    attempts = 0

    async def handle_message(self, message: str | bytes) -> None:
        await self.run(model.list_books, self.session, limit=1)
        self.attempts += 1
        if self.attempts == 1:
            raise KeyError
        self.write_message({"attempts": self.attempts, "lost": self.lost_write})


class WritingSocket(SessionWebSocketHandler):
    """A message writes a book, and is answered with its token."""

    async def handle_message(self, message: str | bytes) -> None:
        await self.run(model.create_book, self.session, id=str(message), title="a", pages=0, notes={})

        async def tell() -> None:
            await self.write_message({"wrote": self.wrote})

        self.on_commit(tell)


class RedirectHandler(ApiHandler):
    """Does its work in a thread, and answers before its method is called."""

    executor = "threads"

    async def prepare(self) -> None:
        await super().prepare()
        if self.request.method == "POST":
            await self.run(model.create_shelf, self.session, name=f"of {time.time()}")
        else:
            await self.run(model.list_books, self.session, limit=1)
        self.redirect("/shelves", status=303)


class Title(Body):
    """What the handler below takes, and answers."""

    title: str


class DescribedHandler(ApiHandler):
    """Operations that the document has."""

    @operation(answer=Title)
    async def get(self) -> Title:
        """Read a title."""
        return Title(title="a")

    @operation(answer=Title, status=201)
    async def post(self, body: Title) -> Title:
        """Write a title."""
        return body


OWN_ROUTES = [
    URLSpec("/described", DescribedHandler),
    URLSpec("/export", ExportHandler),
    URLSpec("/hurried", HurriedExportHandler),
    URLSpec("/snapshots/([0-9a-f]{32})", SnapshotHandler),
    URLSpec("/tagged/([0-9]+)", TaggedHandler),
    URLSpec("/writes", WriteInReadHandler),
    URLSpec("/reading", ReadingSocket),
    URLSpec("/retried", RetriedSocket),
    URLSpec("/redirects", RedirectHandler),
    URLSpec("/writing", WritingSocket),
]
