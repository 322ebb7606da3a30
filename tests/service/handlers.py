"""Shelves and books over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Row
from tornado.routing import URLSpec

from db.base import new_id
from handlers import ApiHandler
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

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = Field(default_factory=new_id)
    title: Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
    pages: Annotated[int, Field(ge=0)] = 0
    notes: dict[str, Any] = Field(default_factory=dict)


class BookChange(Body):
    """`PATCH /books/{id}`."""

    pages: Annotated[int, Field(ge=0)]


class Loan(Body):
    """`POST /books/lend`."""

    limit: Annotated[int, Field(ge=1, le=100)]


class BooksQuery(Query):
    """`GET /books`."""

    limit: Annotated[int, Field(ge=1, le=1000), Number] = 100


class ShelvesQuery(Query):
    """`GET /shelves`."""

    limit: Annotated[int, Field(ge=1, le=1000), Number] = 100
    name: str | None = None


class ShelvesHandler(IdempotentHandler, ApiHandler):
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


class ShelfHandler(ApiHandler):
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


class BooksHandler(IdempotentHandler, ApiHandler):
    """``/books``."""

    refused_early = True

    async def get(self) -> None:
        rows = await self.run(model.list_books, self.session, limit=read_query(self, BooksQuery).limit)
        self.write_json({"items": [book_json(book) for book in rows]})

    async def post(self) -> None:
        new = await read_body(self, BookNew)
        book = await self.run(model.create_book, self.session, **dict(new))
        self.set_header("Location", f"{self.request.path}/{book.id}")
        self.write_json(book_json(book), 201)


class BookHandler(ApiHandler):
    """``/books/{id}``."""

    async def get(self, book_id: str) -> None:
        self.write_json(book_json(await self.run(model.get_book, self.session, book_id=book_id)))

    async def patch(self, book_id: str) -> None:
        pages = (await read_body(self, BookChange)).pages
        book = await self.run(model.update_book, self.session, book_id=book_id, pages=pages)
        self.write_json(book_json(book))

    async def delete(self, book_id: str) -> None:
        await self.run(model.delete_book, self.session, book_id=book_id)
        self.set_status(204)


class LendHandler(IdempotentHandler, ApiHandler):
    """``/books/lend``: the oldest books that are not lent."""

    async def post(self) -> None:
        loan = await read_body(self, Loan)
        books = await self.run(model.lend_books, self.session, limit=loan.limit)
        self.write_json({"items": [book_json(book) for book in books]})


class LentHandler(ApiHandler):
    """``/books/{id}/lent``: a book is lent once."""

    async def post(self, book_id: str) -> None:
        self.write_json(book_json(await self.run(model.lend_book, self.session, book_id=book_id)))


def shelf_json(shelf: Shelf) -> dict[str, Any]:
    """A shelf as it is answered."""
    return {"id": shelf.id, "name": shelf.name, "create_time": shelf.create_time}


def book_json(book: Book | Row[Any]) -> dict[str, Any]:
    """A book as it is answered."""
    names = ("id", "title", "pages", "notes", "is_lent")
    return {name: getattr(book, name) for name in names}


SHELF_ID = "([1-9][0-9]{0,17})"
BOOK_ID = "([0-9a-f]{32})"


def routes() -> list[URLSpec]:
    """The whole service, but for what every service has."""
    return [
        URLSpec("/shelves", ShelvesHandler, name="shelves"),
        URLSpec(f"/shelves/{SHELF_ID}", ShelfHandler, name="shelf"),
        URLSpec("/books", BooksHandler, name="books"),
        URLSpec("/books/lend", LendHandler, name="lend"),
        URLSpec(f"/books/{BOOK_ID}", BookHandler, name="book"),
        URLSpec(f"/books/{BOOK_ID}/lent", LentHandler, name="lent"),
    ]
