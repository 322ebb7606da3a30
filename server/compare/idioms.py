"""Three ways to decide when the commit happens, each a handler that does the same work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from tornado.web import Application, HTTPError, RequestHandler

from conf import DatabaseSettings
from db import Database, make_engine
from db.engines.engine import blocking
from handlers.json_api.api import ApiHandler
from server.compare.model import Entry

LINGER_S = 0.03
"""How long a request takes whose client disconnects meanwhile."""


def add(session: Session, text: str) -> None:
    """The work: a row, flushed."""
    session.add(Entry(text=text))
    session.flush()


class Naive(RequestHandler):
    """Commits in ``on_finish``, which Tornado calls when the answer has been written to the socket."""

    def prepare(self) -> None:
        self.session = Session(self.settings["engine"])

    def on_finish(self) -> None:
        try:
            self.session.commit()
        finally:
            self.session.close()


class NaiveHandler(Naive):
    """The work in the naive form."""

    async def post(self) -> None:
        add(self.session, self.get_query_argument("text"))
        await after_flush(self)


class SessionMixin:
    """What tornado-sqlalchemy 0.8 documents, in a few lines: a session for a block, committed at its end.

    https://tornado-sqlalchemy.readthedocs.io: ``with self.make_session() as session``, and a query in a
    thread by ``await as_future(…)``. Its other form, ``self.session``, commits in ``on_finish``, as `Naive`.
    """

    settings: dict[str, Any]

    @contextmanager
    def make_session(self) -> Iterator[Session]:
        session = Session(self.settings["engine"])
        try:
            yield session
        except Exception:
            session.rollback()
            raise
        else:
            session.commit()  # on the event loop
        finally:
            session.close()

    def as_future(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self.settings["threads"], function)


class MixinHandler(SessionMixin, RequestHandler):
    """The work in tornado-sqlalchemy's form: the answer is made after the block."""

    async def post(self) -> None:
        text = self.get_query_argument("text")
        with self.make_session() as session:
            await self.as_future(lambda: add(session, text))
            await after_flush(self)
        self.write("done")


class HeldHandler(ApiHandler):
    """The work in this service's form: the answer is held until COMMIT has succeeded."""

    async def post(self) -> None:
        await self.run(add, self.session, self.get_query_argument("text"))
        await after_flush(self)


IDIOMS: dict[str, type[RequestHandler]] = {
    "naive": NaiveHandler,
    "tornado-sqlalchemy": MixinHandler,
    "onfinish": HeldHandler,
}
"""The handlers by name, which is the path too."""


async def after_flush(handler: RequestHandler) -> None:
    """The fault after the flush: an exception, a pause in which the client disconnects, or none."""
    fault = handler.get_query_argument("fault", "")
    if fault == "raise":
        raise HTTPError(400, "refused after the flush")
    if fault == "leave":
        await asyncio.sleep(LINGER_S)


class OutHandler(RequestHandler):
    """How many connections are checked out."""

    def get(self) -> None:
        """Of the pool that the first two share, and of those of `Database`."""
        database: Database = self.settings["database"]
        engines = [self.settings["engine"], database.writer.engine, database.reader.engine]
        pools = [engine.pool for engine in engines]
        self.write({"out": sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))})


def idioms(settings: DatabaseSettings) -> Application:
    """All three, each with a pool of the same kind."""
    engine: Engine = make_engine(blocking(settings), "writer")
    handlers: list[Any] = [(f"/{name}", handler) for name, handler in IDIOMS.items()]
    return Application(
        [*handlers, ("/out", OutHandler)],
        engine=engine,
        database=Database(settings),
        threads=ThreadPoolExecutor(settings.pool_size),
        log_function=lambda handler: None,
    )
