"""What a server shows of the comparison, in development and in tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from sqlalchemy.util.concurrency import greenlet_spawn
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import PathMatches, Router, Rule, URLSpec
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.scope import Contextvar, Registry, Scope, ThreadLocal
from server.compare.ambient import scoped_routes
from server.compare.page import ReportHandler
from server.compare.scratch import scratch_database


def ambient_scopes(database: Database) -> list[Scope]:
    """The scopes of one application, all but the explicit one.

    Registries make sessions of their own where they are asked outside of a request: on the writer.
    """
    engine = database.writer.engine
    return [Contextvar(), Registry(engine), ThreadLocal(engine)]


class Twins(Router):
    """A resource under each scope: ``/contextvar/…``, ``/registry/…``, ``/threadlocal/…``.

    Served by an application of its own, on a scratch database with a pool and threads of its own: what the
    thread-local one leaves behind on purpose, a connection and on SQLite the file's write lock, is out of the
    product's reach. Both are made by the first request to one of them, which waits for it and lets all others
    wait. Lives until `close`.

    Args:
        settings: of the product's database, beside which the scratch database is made.
        routes: the resource's. A handler that owns no session is not mounted.
    """

    def __init__(self, settings: DatabaseSettings, routes: Iterable[URLSpec]) -> None:
        self._settings = settings
        self._routes = list(routes)
        self._made = ExitStack()
        self._application: Application | None = None
        self._database: Database | None = None
        self.scopes: Sequence[Scope] = ()
        self.product: dict[str, Any] = {}
        """The settings of the product's application, with which the twins are served too."""

    @property
    def rule(self) -> Rule:
        """Where they are served."""
        names = "|".join(scope.name for scope in (Contextvar, Registry, ThreadLocal))
        return Rule(PathMatches(f"/({names})/.*"), self)

    @property
    def database(self) -> Database:
        """The twins' own, which is made now if no request has asked for it yet."""
        if self._database is None:
            settings = self._made.enter_context(scratch_database(self._settings))
            self._database = Database(settings)
            self.scopes = ambient_scopes(self._database)
        return self._database

    @property
    def application(self) -> Application:
        """The twins' own."""
        if self._application is None:
            own = {"database": self.database, "scopes": self.scopes}
            routes = [route for scope in self.scopes for route in scoped_routes(self._routes, scope)]
            self._application = Application(routes, **{**self.product, **own})
        return self._application

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """The handler of a request, of the twins' own application."""
        return self.application.find_handler(request)

    async def close(self) -> None:
        """Close the sessions that were left behind; close and delete the database, where one was made."""
        if self._database is None:
            return
        for scope in self.scopes:
            if self._database.backend.is_async:
                await greenlet_spawn(scope.close)
            else:
                scope.close()
        await self._database.close(grace_s=1.0)
        self._made.close()
        self._database = self._application = None


def compared_routes(twins: Twins | None) -> list[Rule]:
    """The newest report at ``/compare``, and the twins; nothing without them."""
    return [URLSpec("/compare", ReportHandler, name="compare"), twins.rule] if twins is not None else []


async def close_twins(application: Application) -> None:
    """Close the twins of an application that has some."""
    twins: Twins | None = application.settings.get("twins")
    if twins is not None:
        await twins.close()
