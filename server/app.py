"""The application, put together here and nowhere else."""

from __future__ import annotations

from tornado.routing import URLSpec
from tornado.web import Application

from conf import Settings
from db import Database, migrate
from db.places import Places
from handlers import NotFoundHandler, log_request
from handlers.openapi import PATH as OPENAPI, OpenApiHandler
from handlers.ops import LivezHandler, ReadyzHandler
from handlers.routes import routes
from server.compare.mount import ambient_scopes, compared_routes


def make_app(settings: Settings, database: Database) -> Application:
    """The board's application on a database.

    Opens nothing and starts nothing. The caller closes the database.
    """
    http = settings.http
    scopes = ambient_scopes(database) if settings.compare.mount else []
    return Application(
        [
            *routes(),
            *compared_routes(scopes),
            URLSpec(OPENAPI, OpenApiHandler, name="openapi"),
            URLSpec("/livez", LivezHandler, name="livez"),
            URLSpec("/readyz", ReadyzHandler, name="readyz"),
        ],
        database=database,
        scopes=scopes,
        request_timeout_s=http.request_timeout_s,
        exports=Places(http.exports_max, name="exports"),
        schema_revision=migrate.head(),
        default_handler_class=NotFoundHandler,
        log_function=log_request,
        cors_origins=frozenset(http.cors_origins),
        cross_origin_protection=True,
        # Who may read what a write answers may write.
        trusted_origins=frozenset(http.trusted_origins) | frozenset(http.cors_origins),
        autoreload=False,  # the lifecycle starts it, once the port is open
    )
