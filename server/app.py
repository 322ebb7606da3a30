"""The application, put together here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from conf import Settings
from db import Database
from db.capacity.limiter import AdmissionLimiter
from db.schema.newest import newest
from handlers import NotFoundHandler, log_request
from handlers.board.routes import ABOUT as BOARD, routes as board_routes
from handlers.openapi.document import About, Document, describe
from handlers.openapi.handler import PATH as OPENAPI, OpenApiHandler
from handlers.openapi.operation import Limits
from handlers.openapi.routed import RoutedOperation, operations_in
from handlers.ops import ROUTES as PROBES
from handlers.websocket import Sockets
from server.compare.mount import Twins, compared_routes
from server.monitoring.ops import Ops, pages
from server.pages.pages import Application as Shown, ServerPages, first_step_of
from server.pages.routes import PageRoutes, log_function as keeping

KERNEL_ROUTES = (URLSpec(OPENAPI, OpenApiHandler, name="openapi"), *PROBES)


def make_app(
    settings: Settings,
    database: Database,
    ops: Ops | None = None,
    *,
    databases: Mapping[str, Database] = MappingProxyType({}),
    routes: Sequence[URLSpec] | None = None,
    about: About | None = None,
) -> Application:
    """An application on a database.

    Opens nothing and starts nothing. The caller closes the database.

    Args:
        settings: its limits and origins.
        database: for all its requests.
        ops: counts its answers, and may show them.
        databases: others, by the names that `session_of` knows them by. The caller closes them too.
        routes: its own, beside those that every application has; by default the board's.
        about: what its document is headed with; by default that of the board, where the routes are.
    """
    if routes is None:
        routes, about = board_routes(), about or BOARD
        compared = [route for route in routes if route.regex.pattern.startswith("/tasks")]
    else:
        compared = [*routes]
    http = settings.http
    revision, known = newest(settings.database.models)
    database.expect_schema(revision, known=known)
    twins = Twins(database.settings, compared) if settings.compare.mount else None
    slots = {"writer": database.writer.limiter.size, "reader": database.reader.limiter.size}
    limits = Limits(
        http=http,
        pool_timeout_s=database.settings.pool_timeout_s,
        slots=slots,
        pool_max_waiting=database.settings.pool_max_waiting,
        write_tokens=database.write_tokens is not None,
    )
    introduced = about or About(title="onfinish")
    operations = described_operations(routes)
    document = Document(lambda: describe(operations, introduced, limits))
    shown = page_routes = None
    if ops is not None:
        shown = ServerPages(settings, database, ops, Shown(introduced, document, revision))
        shown.live.look.others = databases
        page_routes = PageRoutes(shown, ops)
    all_routes = [
        *routes,
        *compared_routes(twins),
        *KERNEL_ROUTES,
        *(ops.routes if ops is not None else []),
        *(page_routes.main if page_routes is not None else []),
    ]
    named = [route for route in all_routes if isinstance(route, URLSpec)]
    log_function: Callable[[RequestHandler], None] = log_request
    if ops is not None and shown is not None:
        log_function = ops.log_function(named, keeping(shown.log, log_request))
    application = Application(
        all_routes,
        database=database,
        databases=databases,
        openapi=document,
        sockets=Sockets(),
        twins=twins,
        request_timeout_s=http.request_timeout_s,
        write_cookie_s=http.write_cookie_s,
        exports=AdmissionLimiter(http.exports_max, name="exports"),
        schema_revision=revision,
        default_handler_class=NotFoundHandler,
        log_function=log_function,
        answered=None if ops is None else ops.metrics.answered,  # for what is refused before it has a handler
        cors_origins=frozenset(http.cors_origins),
        cors_headers=http.cors_headers,
        cross_origin_protection=True,
        forms=False,
        database_messages=settings.log.database_messages,
        server_timing_counts=not settings.production,
        serve_traceback=settings.debug,
        # In production a browser is no reason to show a client more than the API does.
        error_page=None if shown is None or settings.production else shown.error_page,
        pages=shown,
        with_bar=None if shown is None else shown.with_bar,
        # An origin that may read the answer to a write may write.
        trusted_origins=frozenset(http.trusted_origins) | frozenset(http.cors_origins),
        autoreload=False,  # the lifecycle starts it, once the port is open
    )
    if twins is not None:
        twins.product = application.settings
    return application


def described_operations(routes: Sequence[URLSpec]) -> list[RoutedOperation]:
    """What the document of an application with these routes describes.

    The pages for operators among it, wherever they are served.
    """
    return [*operations_in([*routes, *KERNEL_ROUTES, *pages()])]


async def first_step(database: Database) -> str | None:
    """What the board suggests where its database is empty, for a banner.

    None where there is nothing to suggest, or the database cannot be asked.
    """
    return await first_step_of(database, BOARD)
