"""The names of routes: ``/tasks/{task_id}`` for every path that it matches."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from urllib.parse import unquote

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, URLSpec
from tornado.web import RequestHandler

UNMATCHED = ""
"""OpenTelemetry has no ``http.route`` where none matched, and Prometheus takes an empty label for none."""


class RouteNames:
    """Maps handlers and requests to their routes. Lives as long as its application."""

    def __init__(self, routes: Iterable[URLSpec]) -> None:
        self._by_handler: dict[object, list[tuple[PathMatches, str]]] = {}
        for route in routes:
            if isinstance(route.matcher, PathMatches):
                names = self._by_handler.setdefault(route.target, [])
                names.append((route.matcher, _name_of(route, route.matcher)))
        self._all = [pair for pairs in self._by_handler.values() for pair in pairs]

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


def _name_of(route: URLSpec, matcher: PathMatches) -> str:
    """The path with each group replaced by the name of the argument that it is passed as."""
    count = matcher.regex.groups
    names = list(matcher.regex.groupindex) or _arguments_of(route.target)
    names += [str(number) for number in range(len(names) + 1, count + 1)]
    path = matcher.reverse(*(f"{{{name}}}" for name in names[:count]))
    return unquote(path) if path is not None else matcher.regex.pattern


def _arguments_of(handler: object) -> list[str]:
    for name in ("get", "post", "put", "patch", "delete"):
        method = getattr(handler, name, None)
        if method is not None and method is not getattr(RequestHandler, name):
            parameters = list(inspect.signature(method).parameters.values())[1:]
            return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    return []
