"""The path of a route as logs, metrics and documents have it: ``/tasks/{task_id}``."""

from __future__ import annotations

import inspect
from urllib.parse import unquote

from tornado.routing import PathMatches, Rule
from tornado.web import RequestHandler


def path_of(route: Rule) -> str:
    """The path with each group replaced by the name of the argument that it is given to."""
    matcher = route.matcher
    if not isinstance(matcher, PathMatches):
        raise TypeError(f"{route!r} matches by something else than the path")
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
