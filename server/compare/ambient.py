"""Handlers that are written with the session as an argument, put under a scope where it is looked up."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from sqlalchemy.orm import Session
from tornado.routing import URLSpec

from db import passes_on
from db.scope import Contextvar, Scope
from handlers.base import SessionHandler
from handlers.scoped import ContextvarHandler, ScopedHandler, ScopedMethods


class LooksUp(ScopedMethods):
    """Model functions are called without the session that the handler passes, and look it up."""

    @passes_on
    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """As `ScopedMethods.run`, without the session."""
        if args and args[0] is self.session:
            return super().run(self.scope.bind(function, self.session), *args[1:], **kwargs)
        return super().run(function, *args, **kwargs)

    def in_new_transaction(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """As `ScopedMethods.in_new_transaction`, without the session."""

        def call(session: Session) -> object:
            return self.scope.bind(function, session)(*args, **kwargs)

        super().in_new_transaction(call)


def scoped(handler: type[SessionHandler], scope: Scope) -> type[SessionHandler]:
    """A subclass of a handler, under a scope: with a context variable a `ContextvarHandler`."""
    way = ContextvarHandler if isinstance(scope, Contextvar) else ScopedHandler
    return type(f"{scope.name.title()}{handler.__name__}", (LooksUp, way, handler), {"scope": scope})


def scoped_routes(routes: Iterable[URLSpec], scope: Scope) -> list[URLSpec]:
    """Routes once more, below ``/<scope>``, with each of their session handlers under that scope.

    Args:
        routes: of any application. A handler that owns no session is left out.
        scope: how their model functions find their session.
    """
    return [
        URLSpec(f"/{scope.name}{spec.regex.pattern}", scoped(spec.handler_class, scope), spec.kwargs)
        for spec in routes
        if issubclass(spec.handler_class, SessionHandler)
    ]
