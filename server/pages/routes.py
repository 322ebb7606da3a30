"""Which pages there are, and on which port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tornado.routing import URLSpec
from tornado.web import RequestHandler as TornadoHandler

from db import Database
from handlers.request_id import PATTERN
from server.edge.http import DrainingServer
from server.pages.handlers import (
    AssetHandler,
    DocsHandler,
    HomeHandler,
    LiveHandler,
    QuietHandler,
    RequestHandler,
    RequestsHandler,
)
from server.pages.pages import Pages, shows_docs


class PageRoutes:
    """The routes of the pages of one process. Lives as long as that; `Ops` starts and stops it."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._arguments = {"pages": pages, "ops": pages.ops}
        pages.ops.parts.append(self)

    @property
    def main(self) -> list[URLSpec]:
        """Those of the main port, beside the ones that `Ops` has there."""
        settings, arguments = self._pages.settings, {**self._arguments, "local": True}
        routes = []
        if not settings.production:
            routes.append(URLSpec("/", HomeHandler, arguments, name="home"))
        if shows_docs(settings):
            routes.append(URLSpec("/docs", DocsHandler, arguments, name="docs"))
        return [*routes, _assets(arguments)] if routes else []

    def ops_routes(self, *, local: bool) -> list[URLSpec]:
        """See `Part`. On ``ops.port`` there is a home as well."""
        arguments = {**self._arguments, "local": local}
        routes = [
            URLSpec(r"/-/live(\.json|\.txt|)", LiveHandler, arguments, name="live"),
            URLSpec(r"/-/requests(\.json|)", RequestsHandler, arguments, name="requests"),
            URLSpec(rf"/-/requests/({PATTERN}?)(\.json|)", RequestHandler, arguments, name="request"),
        ]
        if local:
            return routes
        return [URLSpec("/", HomeHandler, arguments, name="home"), *routes, _assets(arguments)]

    def log_function(self, then: Callable[[TornadoHandler], None]) -> Callable[[TornadoHandler], None]:
        """A ``log_function`` that keeps requests, and has no line for what an open page loads by itself."""
        answered = self._pages.log.answered

        def log_request(handler: TornadoHandler) -> None:
            if not (isinstance(handler, QuietHandler) and handler.get_status() < 400):
                then(handler)
                answered(handler)

        return log_request

    def start(self, database: Database, server: DrainingServer) -> None:
        """See `Part`."""
        self._pages.start(database, server)

    async def stop(self) -> None:
        """See `Part`."""
        await self._pages.stop()


def _assets(arguments: dict[str, Any]) -> URLSpec:
    return URLSpec(r"/-/assets/[0-9a-f]+/([a-z]+\.[a-z]+)", AssetHandler, arguments, name="assets")
