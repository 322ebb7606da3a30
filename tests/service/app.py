"""The application of this service, put together as `server.app` does it."""

from __future__ import annotations

from unittest import mock

from tornado.web import Application

import server.app
from conf import Settings
from db import Database
from server.monitoring.ops import Ops
from tests.service.handlers import routes


def make_service(settings: Settings, database: Database, ops: Ops | None = None) -> Application:
    """As `server.app.make_app`, with these routes."""
    with mock.patch.object(server.app, "routes", routes):
        return server.app.make_app(settings, database, ops)
