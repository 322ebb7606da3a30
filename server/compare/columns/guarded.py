"""A scope of this service: its unit of work owns the session and decides about its work."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection, event
from sqlalchemy.orm import Session
from sqlalchemy.util.concurrency import greenlet_spawn

from conf import DatabaseSettings
from db import Database, make_url
from db.backends.choose import backend_for
from db.scope import SCOPES, Explicit
from handlers.json_api.api import ApiHandler
from server.compare.ambient import scoped
from server.compare.columns.base import Column, Work


class Guarded(Column):
    """The unit of work, the held response, the deadline, and a scope.

    Args:
        name: of the scope.
    """

    guarded = True

    def __init__(self, name: str, settings: DatabaseSettings) -> None:
        self.name = name
        self._settings = settings
        self.database = Database(settings)
        self.scope = SCOPES[name](self.database.writer.engine)
        self.handler = ApiHandler if isinstance(self.scope, Explicit) else scoped(ApiHandler, self.scope)
        self._databases = [self.database]
        self._out: dict[int, PoolProxiedConnection] = {}
        self.collects = not backend_for(make_url(settings)).is_async
        if not self.collects:
            for engine in self.engines():
                self._note_what_is_out(engine)

    def begin(self, label: str) -> Work:
        unit = self.database.unit_of_work(label=label)
        entered = self.scope.enter(unit.session)

        def end() -> None:
            self.scope.leave(entered)
            unit.settle_at_once(keep=True)

        return Work(unit.session, unit.run, end)

    @contextlib.asynccontextmanager
    async def job(self, label: str, *, elsewhere: bool = False, entered: bool = True) -> AsyncIterator[Work]:
        async with self._database(elsewhere=elsewhere).unit_of_work(label=label) as unit:
            with self.scope.entered(unit.session) if entered else contextlib.nullcontext():
                yield Work(unit.session, unit.run, lambda: None)

    @contextlib.contextmanager
    def script(self) -> Iterator[Session]:
        with self.database.session_scope() as session, self.scope.entered(session):
            yield session

    def app_settings(self, *, elsewhere: bool = False) -> dict[str, Any]:
        return {"database": self._database(elsewhere=elsewhere)}

    def engines(self) -> list[Engine]:
        return [endpoint.engine for each in self._databases for endpoint in (each.writer, each.reader)]

    async def idle(self, timeout_s: float) -> None:
        for database in self._databases:
            await database.idle(timeout_s)

    async def close(self, grace_s: float) -> None:
        if self.collects:
            self.scope.close()
        else:
            await greenlet_spawn(self._close_scope)
        for database in self._databases:
            await database.close(grace_s=grace_s)

    def _note_what_is_out(self, engine: Engine) -> None:
        @event.listens_for(engine, "checkout")
        def taken(connection: object, record: object, proxy: PoolProxiedConnection) -> None:
            self._out[id(record)] = proxy

        @event.listens_for(engine, "checkin")
        def returned(connection: object, record: object) -> None:
            self._out.pop(id(record), None)

    def _close_scope(self) -> None:
        self.scope.close()
        # A session that was closed on the loop, where an asyncio driver cannot, has kept its connection.
        for proxy in list(self._out.values()):
            proxy.invalidate()

    def _database(self, *, elsewhere: bool) -> Database:
        if not elsewhere:
            return self.database
        if len(self._databases) == 1:
            self._databases.append(Database(self._settings))
        return self._databases[1]
