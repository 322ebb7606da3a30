"""Shelves and books over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from tornado.routing import URLSpec

from handlers import SessionHandler
from handlers.idempotency import IdempotentHandler
from handlers.json_api.body import Body, read_body
from handlers.json_api.query import Number, Query, read_query
from tests.service import model
from tests.service.model import NAME_CHARS_MAX, Book, Shelf


class ShelfNew(Body):
    """`POST /shelves`, `PATCH /shelves/{id}`."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]


class BookNew(Body):
    """`POST /books`."""

    title: Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
    notes: dict[str, Any] = Field(default_factory=dict)


class ShelvesQuery(Query):
    """`GET /shelves`."""

    limit: Annotated[int, Field(ge=1, le=1000), Number] = 100
    name: str | None = None


class ShelvesHandler(IdempotentHandler):
    """``/shelves``."""

    async def get(self) -> None:
        query = read_query(self, ShelvesQuery)
        rows = await self.run(model.list_shelves, self.session, limit=query.limit, name=query.name)
        self.write_json({"items": [shelf_json(shelf) for shelf in rows]})

    async def post(self) -> None:
        new = await read_body(self, ShelfNew)
        shelf = await self.run(model.create_shelf, self.session, name=new.name)
        self.set_header("Location", f"{self.request.path}/{shelf.id}")
        self.write_json(shelf_json(shelf), 201)


class ShelfHandler(SessionHandler):
    """``/shelves/{id}``."""

    async def get(self, shelf_id: str) -> None:
        shelf = await self.run(model.get_shelf, self.session, shelf_id=int(shelf_id))
        self.write_json(shelf_json(shelf))

    async def patch(self, shelf_id: str) -> None:
        change = await read_body(self, ShelfNew)
        shelf = await self.run(model.update_shelf, self.session, shelf_id=int(shelf_id), name=change.name)
        self.write_json(shelf_json(shelf))

    async def delete(self, shelf_id: str) -> None:
        await self.run(model.delete_shelf, self.session, shelf_id=int(shelf_id))
        self.set_status(204)


class BooksHandler(IdempotentHandler):
    """``/books``."""

    async def post(self) -> None:
        new = await read_body(self, BookNew)
        book = await self.run(model.create_book, self.session, **dict(new))
        self.set_header("Location", f"{self.request.path}/{book.id}")
        self.write_json(book_json(book), 201)


class BookHandler(SessionHandler):
    """``/books/{id}``."""

    async def get(self, book_id: str) -> None:
        self.write_json(book_json(await self.run(model.get_book, self.session, book_id=book_id)))


class LentHandler(SessionHandler):
    """``/books/{id}/lent``: a book is lent once."""

    async def post(self, book_id: str) -> None:
        self.write_json(book_json(await self.run(model.lend_book, self.session, book_id=book_id)))


def shelf_json(shelf: Shelf) -> dict[str, Any]:
    """A shelf as it is answered."""
    return {"id": shelf.id, "name": shelf.name, "create_time": shelf.create_time}


def book_json(book: Book) -> dict[str, Any]:
    """A book as it is answered."""
    return {"id": book.id, "title": book.title, "notes": book.notes, "is_lent": book.is_lent}


SHELF_ID = "([1-9][0-9]{0,17})"
BOOK_ID = "([0-9a-f]{32})"


def routes() -> list[URLSpec]:
    """The whole service, but for what every service has."""
    return [
        URLSpec("/shelves", ShelvesHandler, name="shelves"),
        URLSpec(f"/shelves/{SHELF_ID}", ShelfHandler, name="shelf"),
        URLSpec("/books", BooksHandler, name="books"),
        URLSpec(f"/books/{BOOK_ID}", BookHandler, name="book"),
        URLSpec(f"/books/{BOOK_ID}/lent", LentHandler, name="lent"),
    ]
