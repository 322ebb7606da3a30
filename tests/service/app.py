"""The application of this service, put together as `server.app` does it."""

from __future__ import annotations

from tornado.web import Application

from conf import Settings
from db import Database
from server.app import make_app
from server.monitoring.ops import Ops
from tests.service.handlers import routes


def make_service(settings: Settings, database: Database, ops: Ops | None = None) -> Application:
    """As `server.app.make_app`, with these routes."""
    return make_app(settings, database, ops, routes=routes())
