"""The session is in a context variable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy.orm import Session

from db.scope.base import NoSession, Scope

P = ParamSpec("P")
R = TypeVar("R")

# Without a default: where no session was entered, none is found, and nothing is made up.
_session: ContextVar[Session] = ContextVar("onfinish_session")


def current_session() -> Session:
    """The session of the current context.

    Raises:
        NoSession: none was entered here, or it was entered in a context that is not this one.
    """
    try:
        return _session.get()
    except LookupError:
        raise NoSession(
            "no session in this context: `async with database.unit_of_work() as unit` and "
            "`scope.entered(unit.session)`, or call it from the request's own task"
        ) from None


class Contextvar(Scope):
    """As good as a context variable can be made: no default, reset when left, set again for each call.

    Its variable is the module's, as context variables have to be: all instances are one.
    """

    name = "contextvar"

    def enter(self, session: Session) -> Token[Session]:
        return _session.set(session)

    def leave(self, entered: object) -> None:
        # A ValueError: it was entered in another context, by a `prepare` under @gen.coroutine or for a child
        # task that calls finish(). That context ends by itself, and its session says that it is settled.
        with contextlib.suppress(ValueError):
            _session.reset(cast("Token[Session]", entered))

    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        @wraps(function)
        def twin(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(current_session(), *args, **kwargs)

        return twin

    def carry(self, function: Callable[P, R], session: Session) -> Callable[P, R]:
        """The function with the variable set while it runs: what goes through `run` finds its own session
        also where the request's context has been lost."""

        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            # The call has a copy of the caller's context to itself: nothing has to be put back.
            _session.set(session)
            return function(*args, **kwargs)

        return carried
