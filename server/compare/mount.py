"""What a server shows of the comparison, in development and in tests."""

from __future__ import annotations

from collections.abc import Sequence

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


def compared_routes(scopes: Sequence[Scope], routes: Sequence[URLSpec]) -> list[URLSpec]:
    """The newest report at ``/compare``, and the task resource under each scope: ``/contextvar/tasks`` …

    Nothing without scopes.

    The thread-local one fails on purpose: a request to it leaves a session behind that holds a connection
    of the writer, and on SQLite the file's write lock, until the process ends.
    """
    if not scopes:
        return []
    mounted = [route for scope in scopes for route in scoped_routes(routes, scope)]
    return [URLSpec("/compare", ReportHandler, name="compare"), *mounted]
