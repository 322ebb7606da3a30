"""A bare Tornado handler doing the service's own SQL with the service's own session calls, and nothing else.

No unit of work, no held response, no slots, no error table, no request id, no metrics: what is above this is
what they cost. Bodies, queries, model functions, answers with their headers, the HTTP server with its limits,
the event loop and psycopg2's way to wait on it are the service's own, so that nothing else differs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic_core import to_json
from sqlalchemy import URL, create_engine, event, make_url, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool
from tornado.web import Application, HTTPError, RequestHandler

from conf import Settings
from db.backends.choose import backend_for
from db.board import tasks
from db.board.tasks import Position
from db.errors import NotFound
from handlers.board.cursors import cursor_of, position_of
from handlers.board.queries import TaskQuery
from handlers.board.requests import TaskChange, TaskNew, TasksNew
from handlers.board.responses import etag_of, listed_json, task_json
from handlers.json_api.body import read_body
from handlers.json_api.query import read_query
from handlers.json_api.security_headers import security_headers
from server.edge.http import DrainingServer
from server.processes.event_loop import run_loop

POOL_SIZE = 10

P = ParamSpec("P")
R = TypeVar("R")


class Greenlets:
    """Model functions in greenlets, each as one transaction. Lives as long as the process."""

    def __init__(self, url: URL) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        options: dict[str, Any] = {
            "pool_size": POOL_SIZE,
            "max_overflow": 0,
            "poolclass": AsyncAdaptedQueuePool,
        }
        self._reader = create_async_engine(url, isolation_level="AUTOCOMMIT", **options)
        self._writer = create_async_engine(url, **options)

    async def read(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function that only reads."""
        from sqlalchemy.ext.asyncio import AsyncSession

        async with AsyncSession(self._reader, expire_on_commit=False) as session:
            return await session.run_sync(function, *args, **kwargs)

    async def write(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function, and commit."""
        from sqlalchemy.ext.asyncio import AsyncSession

        async with AsyncSession(self._writer, expire_on_commit=False) as session:
            result = await session.run_sync(function, *args, **kwargs)
            await session.commit()
            return result


class Threads:
    """The same in threads, for SQLite, which has one writer at a time. Lives as long as the process."""

    def __init__(self, url: URL) -> None:
        self._reader = create_engine(url, isolation_level="AUTOCOMMIT", pool_size=POOL_SIZE, max_overflow=0)
        self._writer = create_engine(url, pool_size=1, max_overflow=0)
        event.listen(self._writer, "connect", lambda one, record: one.execute("PRAGMA foreign_keys = ON"))
        self._threads = ThreadPoolExecutor(POOL_SIZE)

    async def read(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function that only reads."""

        def work() -> R:
            with Session(self._reader, expire_on_commit=False) as session:
                return function(session, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def write(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function, and commit."""

        def work() -> R:
            with Session(self._writer, expire_on_commit=False) as session:
                result = function(session, *args, **kwargs)
                session.commit()
                return result

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class Handler(RequestHandler):
    """Lives as long as its request."""

    @property
    def database(self) -> Greenlets | Threads:
        database: Greenlets | Threads = self.settings["database"]
        return database

    def set_default_headers(self) -> None:
        """As the service."""
        self.clear_header("Server")
        for name, header in security_headers(self.request.protocol).items():
            self.set_header(name, header)

    def answer(self, value: object, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(to_json(value, inf_nan_mode="null"))

    def compute_etag(self) -> str | None:
        """As the service: no hash over the answer."""
        return None


class ReadyzHandler(Handler):
    async def get(self) -> None:
        await self.database.read(Session.execute, text("SELECT 1"))


class TasksHandler(Handler):
    async def get(self) -> None:
        query = read_query(self, TaskQuery)
        where = query.where()
        after = None if query.cursor is None else position_of(query.cursor, where)
        rows = await self.database.read(tasks.list_tasks, where=where, limit=query.limit + 1, after=after)
        page = tasks.page_of(rows, query.limit)
        more = len(rows) > len(page)
        next_cursor = cursor_of(Position(page[-1].create_time, page[-1].id), where) if more else None
        self.answer({"items": [listed_json(task) for task in page], "next_cursor": next_cursor})

    async def post(self) -> None:
        new = await read_body(self, TaskNew)
        task = await self.database.write(tasks.create_task, new=new.new())
        self.set_header("Location", f"{self.request.path}/{task.id}")
        self.set_header("ETag", etag_of(task))
        self.answer(task_json(task), 201)


class TaskHandler(Handler):
    async def get(self, task_id: str) -> None:
        try:
            task = await self.database.read(tasks.get_task, task_id=task_id)
        except NotFound:
            raise HTTPError(404) from None
        self.set_header("ETag", etag_of(task))
        if self.check_etag_header():
            self.set_status(304)
        else:
            self.answer(task_json(task))

    async def patch(self, task_id: str) -> None:
        change = (await read_body(self, TaskChange)).change()
        task = await self.database.write(tasks.update_task, task_id=task_id, change=change)
        self.set_header("ETag", etag_of(task))
        self.answer(task_json(task))


class BulkHandler(Handler):
    async def post(self) -> None:
        bulk = await read_body(self, TasksNew)
        ids = await self.database.write(tasks.create_tasks, new=bulk.new())
        self.answer({"created": len(ids), "ids": ids}, 201)


async def main() -> None:
    """Serve on the environment's ``PORT`` until the process is killed, with Tornado's own access line."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    url = backend_for(make_url(os.environ["DATABASE_URL"]), executor="auto").engine_url()
    application = Application(
        [
            ("/readyz", ReadyzHandler),
            ("/tasks", TasksHandler),
            ("/tasks/bulk", BulkHandler),
            ("/tasks/([0-9a-f]{32})", TaskHandler),
        ],
        database=Threads(url) if url.get_backend_name() == "sqlite" else Greenlets(url),
    )
    DrainingServer(application).listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_loop(main(), Settings())
