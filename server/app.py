"""The application, put together here and nowhere else."""

from __future__ import annotations

from tornado.routing import URLSpec
from tornado.web import Application

from conf import Settings
from db import Database
from db.capacity.limiter import AdmissionLimiter
from db.schema import migrate
from handlers import NotFoundHandler, log_request
from handlers.board.routes import routes
from handlers.openapi.document import PATH as OPENAPI, OpenApiHandler, document
from handlers.ops import LivezHandler, ReadyzHandler
from handlers.websocket import Sockets
from server.compare.mount import ambient_scopes, compared_routes
from server.monitoring.ops import Ops


def make_app(settings: Settings, database: Database, ops: Ops | None = None) -> Application:
    """The board's application on a database.

    Opens nothing and starts nothing. The caller closes the database.

    Args:
        settings: its limits and origins.
        database: for all its requests.
        ops: counts its answers, and may show them.
    """
    document()  # made now: it takes a tenth of a second, and the first who asks for it would stop all others
    http = settings.http
    revision = migrate.head()
    database.expect_schema(revision, known=migrate.known())
    scopes = ambient_scopes(database) if settings.compare.mount else []
    all_routes = [
        *routes(),
        *compared_routes(scopes),
        URLSpec(OPENAPI, OpenApiHandler, name="openapi"),
        URLSpec("/livez", LivezHandler, name="livez"),
        URLSpec("/readyz", ReadyzHandler, name="readyz"),
        *(ops.routes if ops is not None else []),
    ]
    return Application(
        all_routes,
        database=database,
        sockets=Sockets(),
        scopes=scopes,
        request_timeout_s=http.request_timeout_s,
        exports=AdmissionLimiter(http.exports_max, name="exports"),
        schema_revision=revision,
        default_handler_class=NotFoundHandler,
        log_function=log_request if ops is None else ops.log_function(all_routes, log_request),
        answered=None if ops is None else ops.metrics.answered,  # for what is refused before it has a handler
        cors_origins=frozenset(http.cors_origins),
        cors_headers=http.cors_headers,
        cross_origin_protection=True,
        forms=False,
        database_messages=settings.log.database_messages,
        serve_traceback=settings.debug,
        # Who may read what a write answers may write.
        trusted_origins=frozenset(http.trusted_origins) | frozenset(http.cors_origins),
        autoreload=False,  # the lifecycle starts it, once the port is open
    )
