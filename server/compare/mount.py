"""What a server shows of the comparison, in development and in tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tornado.routing import URLSpec

from db import Database
from db.scope import Contextvar, Registry, Scope, ThreadLocal
from handlers.scoped import scoped_routes
from server.compare.page import ReportHandler


def ambient_scopes(database: Database) -> list[Scope]:
    """The scopes of one application, all but the explicit one.

    Registries make sessions of their own where they are asked outside of a request: on the writer.
    """
    engine = database.writer.engine
    return [Contextvar(), Registry(engine), ThreadLocal(engine)]


def compared_routes(scopes: Sequence[Scope], routes: Iterable[URLSpec]) -> list[URLSpec]:
    """The newest report at ``/compare``, and a resource under each scope: ``/contextvar/…``, ``/registry/…``.

    Nothing without scopes.

    The thread-local one fails on purpose: a request to it leaves a session behind that holds a connection
    of the writer, and on SQLite the file's write lock, until the process ends.

    Args:
        scopes: those of the application.
        routes: the resource's. A handler that owns no session is not mounted.
    """
    if not scopes:
        return []
    routes = list(routes)
    mounted = [route for scope in scopes for route in scoped_routes(routes, scope)]
    return [URLSpec("/compare", ReportHandler, name="compare"), *mounted]
