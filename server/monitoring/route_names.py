"""The names of routes: ``/tasks/{task_id}`` for every path that it matches."""

from __future__ import annotations

from collections.abc import Iterable

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, Rule
from tornado.web import Application, RequestHandler

from handlers.route_paths import path_of

UNMATCHED = ""
"""OpenTelemetry has no ``http.route`` where none matched, and Prometheus takes an empty label for none."""


class RouteNames:
    """Maps handlers and requests to their routes. Lives as long as its application."""

    def __init__(self, routes: Iterable[Rule]) -> None:
        self._by_handler: dict[object, list[tuple[PathMatches, str]]] = {}
        for route in routes:
            if isinstance(route.matcher, PathMatches):
                names = self._by_handler.setdefault(route.target, [])
                names.append((route.matcher, path_of(route)))
        self._all = [pair for pairs in self._by_handler.values() for pair in pairs]

    @classmethod
    def of(cls, application: Application) -> RouteNames:
        """Those of an application, whatever the host that its routes are for."""
        hosts = application.default_router.rules
        return cls(route for host in hosts for route in host.target.rules)

    def of_handler(self, handler: RequestHandler) -> str:
        """The route of a handler: by its class, and by the path only where the class has several."""
        found = self._by_handler.get(type(handler))
        if found is None:
            return UNMATCHED
        return found[0][1] if len(found) == 1 else _first(found, handler.request)

    def of_request(self, request: HTTPServerRequest) -> str:
        """The route of a request whose handler is not available; takes longer."""
        return _first(self._all, request)


def _first(pairs: Iterable[tuple[PathMatches, str]], request: HTTPServerRequest) -> str:
    return next((name for matcher, name in pairs if matcher.match(request) is not None), UNMATCHED)
