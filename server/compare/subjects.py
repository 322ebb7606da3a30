"""Servers that are put under load, each in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.routing import URLSpec
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from server.compare.ambient import scoped_routes
from server.compare.handlers import UsageHandler, application, routes
from server.compare.mount import ambient_scopes
from server.compare.processes import when_closed
from server.compare.wire import Wire

POOL_SIZE = 10
"""Connections of the writer, and as many of the reader: the default of the settings."""

Setup = Callable[[DatabaseSettings], Application]


def serve(pipe: Connection, settings: DatabaseSettings, setup: Setup) -> None:
    """Serve an application on a free port, which is sent; ends with the pipe."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    when_closed(pipe, lambda: os._exit(0))
    asyncio.run(_serve(pipe, settings, setup))


async def _serve(pipe: Connection, settings: DatabaseSettings, setup: Setup) -> None:
    served = setup(settings)
    server = HTTPServer(served)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    gc.collect()
    gc.freeze()
    pipe.send(sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def under_every_scope(settings: DatabaseSettings) -> Application:
    """The comparison's routes under every scope, and the resources that the process uses."""
    database = Database(settings)
    scopes = ambient_scopes(database)
    mounted = [route for scope in scopes for route in scoped_routes(routes(), scope)]
    return application(database, [URLSpec("/usage", UsageHandler), *routes(), *mounted], scopes)


def prefix(scope_name: str) -> str:
    """Where the routes are mounted under a scope."""
    return "" if scope_name == "explicit" else f"/{scope_name}"


BAD_ENDS = ("raises", "hangs", "lingers")
BROKEN_UPLOADS = ("uploads",)


async def end_badly(port: int, scope_name: str, kind: str) -> None:
    """Send one request that ends badly."""
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
