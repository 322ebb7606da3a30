"""Handlers whose model code looks its session up, for comparison with a session that is passed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, ParamSpec, TypeVar

from sqlalchemy.orm import Session
from tornado.routing import URLSpec

from db import passes_on
from db.scope import Scope
from handlers.base import SessionHandler

P = ParamSpec("P")
R = TypeVar("R")


class ScopedHandler(SessionHandler):
    """A `SessionHandler` under a scope: entered at the end of `prepare`, left when `on_finish` begins.

    As a mixin of another handler it changes how that handler's model functions find their session, and
    nothing else.
    """

    scope: ClassVar[Scope]

    _entered: object = None
    _is_entered = False

    def prepare(self) -> Awaitable[None] | Any:
        """Create the session, and enter the scope."""
        result = super().prepare()
        self._entered, self._is_entered = self.scope.enter(self.session), True
        return result

    def on_finish(self) -> None:
        """Leave the scope, and settle the session."""
        if self._is_entered:
            self.scope.leave(self._entered)
        super().on_finish()

    @passes_on
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """As `SessionHandler.run`; a model function is called without the session, and looks it up."""
        session = self.session
        if args and args[0] is session:
            bound: Callable[..., R] = self.scope.bind(function, session)  # type: ignore[arg-type]
            return super().run(self.scope.carry(bound, session), *args[1:], **kwargs)
        return super().run(self.scope.carry(function, session), *args, **kwargs)

    def in_new_transaction(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """As `SessionHandler.in_new_transaction`; the scope is entered for that unit of work's session."""
        scope = self.scope

        def entered(session: Session) -> object:
            with scope.entered(session):
                return scope.bind(function, session)(*args, **kwargs)

        super().in_new_transaction(entered)


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


def scoped(handler: type[SessionHandler], scope: Scope) -> type[SessionHandler]:
    """A subclass of a handler, under a scope."""
    return type(f"{scope.name.title()}{handler.__name__}", (ScopedHandler, handler), {"scope": scope})
