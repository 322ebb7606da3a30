"""Handlers whose model code looks its session up, for code that cannot be passed one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, ParamSpec, TypeVar

from sqlalchemy.orm import Session

from db import passes_on
from db.scope import Contextvar, Scope
from handlers.base import SessionHandler
from handlers.lifecycle.methods import TransactionMethods
from handlers.websocket import SessionWebSocketHandler

P = ParamSpec("P")
R = TypeVar("R")


class ScopedMethods(TransactionMethods):
    """`TransactionMethods`, each of which enters the scope for the function that it calls.

    What they are called with is the same: a function that takes the session is passed it as before.
    """

    scope: ClassVar[Scope]

    @passes_on
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """As `SessionHandler.run`; model code in it finds the session, from whatever task it is called."""
        return super().run(self.scope.carry(function, self.session), *args, **kwargs)

    def before_commit(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """As `SessionHandler.before_commit`; model code in it finds the session that it is passed."""
        super().before_commit(self._entering(function), *args, **kwargs)

    def in_new_transaction(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """As `SessionHandler.in_new_transaction`; model code in it finds the session that it is passed."""
        super().in_new_transaction(self._entering(function), *args, **kwargs)

    def _entering(self, function: Callable[..., R]) -> Callable[..., R]:
        def call(session: Session, *args: Any, **kwargs: Any) -> R:
            with self.scope.entered(session):
                return function(session, *args, **kwargs)

        return call


class ScopedHandler(ScopedMethods, SessionHandler):
    """A `SessionHandler` under a scope: entered at the end of `prepare`, left when `on_finish` begins."""

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


class ContextvarHandler(ScopedHandler):
    """A `SessionHandler` whose session is found by `db.scope.current_session`. Lives as it does.

    For model code that cannot be passed a session, or is not yet. With a face:
    ``class MyHandler(ContextvarHandler, ApiHandler)``.

    The session is found in the request's own task, from ``super().prepare()`` to ``finish()``, and in what
    `run` and the other methods call, from any task. Elsewhere `current_session` raises `NoSession`: in
    ``data_received`` and ``on_connection_close``, which Tornado calls in the connection's context; on the
    event loop behind a `prepare` under ``@gen.coroutine``; in a task that the request creates. Not detected:
    a callback of the event loop that works for other requests while the one that scheduled it is open, as of
    a ``PeriodicCallback`` that a request starts.
    """

    scope = Contextvar()


class ContextvarWebSocketHandler(ScopedMethods, SessionWebSocketHandler):
    """A `SessionWebSocketHandler` whose message's session is found by `db.scope.current_session`.

    Found in `handle_message` alone: ``open`` and ``on_close`` have no session.
    """

    scope = Contextvar()

    async def _handle(self, message: str | bytes) -> None:
        with self.scope.entered(self.session):
            await super()._handle(message)
