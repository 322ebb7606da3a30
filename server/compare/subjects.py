"""Servers that are put under load, each in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import time
import warnings
from collections.abc import Callable
from datetime import date
from multiprocessing.connection import Connection

from sqlalchemy.orm import session as orm_session
from sqlalchemy.pool import QueuePool
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler, stream_request_body

from conf import CompareSettings, DatabaseSettings, Settings
from db import Database
from db.board import tasks
from db.board.tasks import NewTask
from db.scope import Registry, Scope
from handlers.base import SessionHandler
from handlers.scoped import scoped
from server.app import make_app
from server.compare.processes import when_closed
from server.compare.wire import Wire

PLACES = 10
"""Connections of the writer, and as many of the reader: the default of the settings."""

Setup = Callable[[DatabaseSettings], Application]


def serve(pipe: Connection, settings: DatabaseSettings, setup: Setup) -> None:
    """Serve an application on a free port, which is sent; ends with the pipe."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    when_closed(pipe, lambda: os._exit(0))
    asyncio.run(_serve(pipe, settings, setup))


async def _serve(pipe: Connection, settings: DatabaseSettings, setup: Setup) -> None:
    application = setup(settings)
    server = HTTPServer(application)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    gc.collect()
    gc.freeze()
    pipe.send(sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def board(settings: DatabaseSettings) -> Application:
    """The board under every scope, with requests that end badly, and with what the process uses."""
    database = Database(settings)
    application = make_app(
        Settings(environment="testing", database=settings, compare=CompareSettings(mount=True)), database
    )
    scopes: list[Scope] = application.settings["scopes"]
    routes = [URLSpec("/usage", UsageHandler)]
    for kind in (RaisesHandler, HangsHandler, LingersHandler, UploadsHandler):
        path = f"/{kind.__name__.removesuffix('Handler').lower()}"
        routes.append(URLSpec(path, kind))
        routes += [URLSpec(f"/{scope.name}{path}", scoped(kind, scope)) for scope in scopes]
    application.add_handlers(".*", list(routes))
    return application


def prefix(scope_name: str) -> str:
    """Where the board is mounted under a scope."""
    return "" if scope_name == "explicit" else f"/{scope_name}"


class UsageHandler(RequestHandler):
    """What the process has used, and what it holds."""

    async def get(self) -> None:
        """Its CPU in seconds; with ``?all=1`` also what it holds when all requests are over."""
        told: dict[str, float | int] = {"cpu_s": time.process_time()}
        if self.get_query_argument("all", ""):
            database: Database = self.settings["database"]
            await database.idle(2.0)
            gc.collect()
            pools = [endpoint.engine.pool for endpoint in (database.writer, database.reader)]
            told |= {
                "sessions_alive": len(orm_session._sessions),
                "sessions_registered": sum(map(_registered, self.settings["scopes"])),
                "units_open": len(database.units),
                "connections_out": sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool)),
                "memory_kib": memory_kib(),
                "tasks": len(asyncio.all_tasks()),
            }
        self.write(told)


class RaisesHandler(SessionHandler):
    """Writes, and fails."""

    async def post(self) -> None:
        """Never answers with success."""
        await self.run(tasks.create_task, self.session, new=new_row("raises"))
        raise RuntimeError("fails on purpose")


class HangsHandler(SessionHandler):
    """Writes, and is cancelled at its deadline."""

    timeout_s = 0.05

    async def post(self) -> None:
        """Answered by 504."""
        await self.run(tasks.create_task, self.session, new=new_row("hangs"))
        await asyncio.sleep(60)


class LingersHandler(SessionHandler):
    """Writes, for a client that will have left."""

    async def post(self) -> None:
        """Takes long enough for that."""
        await self.run(tasks.create_task, self.session, new=new_row("lingers"))
        await asyncio.sleep(0.05)


@stream_request_body
class UploadsHandler(SessionHandler):
    """Writes while the body comes in, which its client breaks off: Tornado never calls ``on_finish``."""

    async def data_received(self, chunk: bytes) -> None:
        """A row a chunk."""
        await self.run(tasks.create_task, self.session, new=new_row("uploads"))

    def post(self) -> None:
        """Never reached."""


BAD_ENDS = ("raises", "hangs", "lingers")
BROKEN_UPLOADS = ("uploads",)


async def end_badly(port: int, scope_name: str, kind: str) -> None:
    """One request that ends badly."""
    wire = await Wire.to(port)
    try:
        body, announced = (b"x", 100_000) if kind == "uploads" else (b"", 0)
        wire.send(f"{prefix(scope_name)}/{kind}", body=body, announced=announced)
        if kind in ("lingers", "uploads"):
            await asyncio.sleep(0.01)
        else:
            await wire.answer()
    finally:
        wire.leave()


def new_row(bundle: str) -> NewTask:
    """A row to write."""
    return NewTask(bundle=bundle, granularity="daily", target_date=date(2020, 4, 1), change_id=3)


def memory_kib() -> int:
    """The process's memory; the most that it ever had where the present cannot be read."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * resource.getpagesize() // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _registered(scope: Scope) -> int:
    if not isinstance(scope, Registry):
        return 0
    known = getattr(scope.sessions.registry, "registry", {})
    return len(known) if isinstance(known, dict) else 0
