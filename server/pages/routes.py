"""Which pages there are, and on which port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tornado.routing import URLSpec
from tornado.web import RequestHandler as TornadoHandler

from handlers.request_id import PATTERN
from server.edge.http import DrainingServer
from server.monitoring.ops import Ops
from server.pages.handlers import (
    AssetHandler,
    DocsHandler,
    HomeHandler,
    LiveHandler,
    QuietHandler,
    RequestHandler,
    RequestsHandler,
)
from server.pages.pages import Pages, ServerPages, shows_docs
from server.pages.requests.log import RequestLog


class PageRoutes:
    """The routes of the pages of a server's process. Lives as long as that; `Ops` starts it."""

    def __init__(self, pages: ServerPages, ops: Ops) -> None:
        self._pages = pages
        ops.parts.append(self)

    @property
    def main(self) -> list[URLSpec]:
        """Those of the main port, beside the ones that `Ops` has there."""
        settings, arguments = self._pages.settings, arguments_of(self._pages, local=True)
        routes = []
        if not settings.production:
            routes.append(URLSpec("/", HomeHandler, arguments, name="home"))
        if shows_docs(settings):
            routes.append(URLSpec("/docs", DocsHandler, arguments, name="docs"))
        return [*routes, assets(arguments)] if routes else []

    def ops_routes(self, *, local: bool) -> list[URLSpec]:
        """See `Part`. On ``ops.port`` there is a home as well."""
        arguments = arguments_of(self._pages, local=local)
        if local:
            return routes_of(arguments)
        home = URLSpec("/", HomeHandler, arguments, name="home")
        return [home, *routes_of(arguments), assets(arguments)]

    def start(self, server: DrainingServer) -> None:
        """See `Part`."""
        self._pages.serve(server)


def arguments_of(pages: Pages, *, local: bool) -> dict[str, Any]:
    """What each page's handler is given.

    Args:
        local: where the application is served, which untrusted clients may reach too.
    """
    return {"pages": pages, "ops": pages.process, "local": local}


def routes_of(arguments: dict[str, Any]) -> list[URLSpec]:
    """The routes of the pages that every application can have."""
    return [
        URLSpec(r"/-/live(\.json|\.txt|)", LiveHandler, arguments, name="live"),
        URLSpec(r"/-/requests(\.json|)", RequestsHandler, arguments, name="requests"),
        URLSpec(rf"/-/requests/({PATTERN}?)(\.json|)", RequestHandler, arguments, name="request"),
    ]


def log_function(log: RequestLog, then: Callable[[TornadoHandler], None]) -> Callable[[TornadoHandler], None]:
    """A ``log_function`` that keeps requests, and has no line for what an open page loads by itself."""
    answered = log.answered

    def log_request(handler: TornadoHandler) -> None:
        if not (isinstance(handler, QuietHandler) and handler.get_status() < 400):
            then(handler)
            answered(handler)

    return log_request


def assets(arguments: dict[str, Any]) -> URLSpec:
    """The route of what pages load."""
    return URLSpec(r"/-/assets/[0-9a-f]+/([a-z]+\.[a-z]+)", AssetHandler, arguments, name="assets")
