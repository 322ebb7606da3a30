"""The comparison's own application: entries, requests that end badly, and the process's resources."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field
from sqlalchemy.pool import QueuePool
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler, stream_request_body

from db import Database
from db.engines._sqlalchemy import sessions_alive
from db.scope import Registry, Scope
from handlers import log_request
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import Body, read_body
from server.compare.model import TEXT_CHARS_MAX, Entry, create_entry, get_entry


def application(database: Database, handlers: Iterable[URLSpec], scopes: Sequence[Scope] = ()) -> Application:
    """An application on a database, with the protection and the access log of the service.

    Opens nothing and starts nothing. The caller closes the database.
    """
    return Application(
        list(handlers),
        database=database,
        scopes=scopes,
        log_function=log_request,
        cross_origin_protection=True,
        forms=False,
    )


def routes() -> list[URLSpec]:
    """The requests of the load, and those that end badly. Explicit: to be put under other scopes as well."""
    return [
        URLSpec("/entries", EntriesHandler),
        URLSpec("/entries/([0-9a-f]{32})", EntryHandler),
        URLSpec("/raises", RaisesHandler),
        URLSpec("/hangs", HangsHandler),
        URLSpec("/lingers", LingersHandler),
        URLSpec("/uploads", UploadsHandler),
    ]


class EntryNew(Body):
    """`POST /entries`."""

    text: Annotated[str, Field(min_length=1, max_length=TEXT_CHARS_MAX)]


class EntriesHandler(ApiHandler):
    """All entries."""

    async def post(self) -> None:
        """Create one."""
        new = await read_body(self, EntryNew)
        entry = await self.run(create_entry, self.session, text=new.text)
        self.write_json(_shown(entry), 201)


class EntryHandler(ApiHandler):
    """One entry."""

    async def get(self, entry_id: str) -> None:
        """Read it."""
        self.write_json(_shown(await self.run(get_entry, self.session, entry_id=entry_id)))


class RaisesHandler(ApiHandler):
    """Writes, and raises."""

    async def post(self) -> None:
        """Answered by 500."""
        await self.run(create_entry, self.session, text="raises")
        raise RuntimeError("fails on purpose")


class HangsHandler(ApiHandler):
    """Writes, and is cancelled at its deadline."""

    timeout_s = 0.05

    async def post(self) -> None:
        """Answered by 504."""
        await self.run(create_entry, self.session, text="hangs")
        await asyncio.sleep(60)


class LingersHandler(ApiHandler):
    """Writes, for a client that disconnects meanwhile."""

    async def post(self) -> None:
        """Takes long enough for that."""
        await self.run(create_entry, self.session, text="lingers")
        await asyncio.sleep(0.05)


@stream_request_body
class UploadsHandler(ApiHandler):
    """Writes while the body comes in, which its client breaks off: Tornado never calls ``on_finish``."""

    async def data_received(self, chunk: bytes) -> None:
        """A row a chunk."""
        await self.run(create_entry, self.session, text="uploads")

    def post(self) -> None:
        """Never reached."""


class UsageHandler(RequestHandler):
    """What the process has used, and what it holds."""

    async def get(self) -> None:
        """Its CPU in seconds; with ``?all=1`` also what it holds when all requests are over."""
        usage: dict[str, float | int] = {"cpu_s": time.process_time()}
        if self.get_query_argument("all", ""):
            database: Database = self.settings["database"]
            await database.idle(2.0)
            gc.collect()
            pools = [endpoint.engine.pool for endpoint in (database.writer, database.reader)]
            usage |= {
                "sessions_alive": sessions_alive(),
                "sessions_registered": sum(map(registered, self.settings["scopes"])),
                "units_open": len(database.units),
                "connections_out": sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool)),
                "memory_kib": memory_kib(),
                "tasks": len(asyncio.all_tasks()),
            }
        self.write(usage)


def memory_kib() -> int:
    """The process's resident memory; the most that it ever had where the present cannot be read."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * resource.getpagesize() // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def registered(scope: Scope) -> int:
    """How many sessions a scope's registry holds, one for each key; 0 for a scope without such a registry."""
    if not isinstance(scope, Registry):
        return 0
    sessions = getattr(scope.sessions.registry, "registry", {})
    return len(sessions) if isinstance(sessions, dict) else 0


def _shown(entry: Entry) -> dict[str, str]:
    return {"id": entry.id, "text": entry.text}
