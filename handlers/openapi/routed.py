"""Operations where the routes have them: with a path and a method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tornado.routing import URLSpec
from tornado.web import RequestHandler

from handlers.base import SessionHandler
from handlers.idempotency import HEADER as IDEMPOTENCY_KEY, REPLAYED, IdempotentHandler
from handlers.openapi.operation import JSON, Answer, Operation
from handlers.route_paths import path_of

_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class RoutedOperation:
    """An operation of a route. Lives as long as the document is made.

    Args:
        pattern: the route's regular expression, without its end.
    """

    operation: Operation
    handler: type[RequestHandler]
    method: str
    path: str
    pattern: str

    @property
    def has_session(self) -> bool:
        """Whether it works with the database."""
        return issubclass(self.handler, SessionHandler)

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.method == "get"

    @property
    def pool(self) -> str:
        """The name of the pool that it works on, as `SessionHandler` chooses it."""
        own = getattr(self.handler, "read_only", None)
        return "reader" if (self.reads if own is None else own) else "writer"

    @property
    def takes_key(self) -> bool:
        """Whether it may be repeated under an ``Idempotency-Key``."""
        return self.method == "post" and issubclass(self.handler, IdempotentHandler)

    @property
    def request_headers(self) -> tuple[str, ...]:
        """The names of the headers that it reads."""
        revalidates = any(answer.status == 304 for answer in self.operation.answers)
        return (
            *self.operation.headers,
            *((IDEMPOTENCY_KEY,) if self.takes_key else ()),
            *(("If-None-Match",) if revalidates else ()),
            "X-Request-Id",
        )

    def response_headers(self, answer: Answer) -> Mapping[str, bool]:
        """The headers that one of its answers carries, by name: whether always."""
        headers = dict.fromkeys(("X-Request-Id", *answer.headers), True)
        if self.takes_key:
            headers[REPLAYED] = False
        if self.has_session and answer.status != 304 and answer.media_type == JSON:
            headers["Server-Timing"] = True
        return headers

    @property
    def example_path(self) -> str:
        """Its path with an example of each of its arguments."""
        return self.path.format(**{each.name: each.example for each in self.operation.path_parameters})


def operations_in(routes: Iterable[URLSpec]) -> Iterator[RoutedOperation]:
    """The operations that are declared at the methods of the routes' handlers.

    Raises:
        TypeError: an operation does not describe an argument of its path.
    """
    for route in routes:
        path, pattern = path_of(route), route.regex.pattern.removesuffix("$")
        for method in _METHODS:
            operation = getattr(getattr(route.handler_class, method), "operation", None)
            if operation is None:
                continue
            routed = RoutedOperation(operation, route.handler_class, method, path, pattern)
            _check_path(routed)
            yield routed


def _check_path(routed: RoutedOperation) -> None:
    try:
        routed.example_path  # noqa: B018  # raises
    except (KeyError, IndexError) as error:
        handler = f"{routed.handler.__module__}.{routed.handler.__qualname__}.{routed.method}"
        raise TypeError(
            f"{handler} does not describe {error} of its path {routed.path}: add a `PathParameter` of that "
            "name to `path_parameters` of its `operation`"
        ) from None
