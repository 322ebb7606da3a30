"""The session is in a context variable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy.orm import Session
from sqlalchemy.util.concurrency import in_greenlet

from db.errors import NoSession
from db.guard import OPTION, StatementGuard
from db.scope.base import Scope

P = ParamSpec("P")
R = TypeVar("R")


class Entry:
    """A session that was entered. Lives as long as the contexts that have it; has the session until `leave`.

    Args:
        session: the one that `current_session` finds.
        task: the only task that finds it on the event loop; None where the caller has been checked already.
    """

    __slots__ = ("session", "task", "guard", "token")

    def __init__(self, session: Session, task: asyncio.Task[object] | None) -> None:
        self.session: Session | None = session
        self.task = task
        self.guard: StatementGuard | None = session.execution_options.get(OPTION)
        self.token: Token[Entry] | None = _entry.set(self)

    @property
    def owner(self) -> str:
        """How messages name it."""
        return "a session that was entered" if self.guard is None else self.guard.label

    def check(self) -> None:
        """Raise where the caller is not what the session was entered for."""
        try:
            current = asyncio.current_task()
        except RuntimeError:  # no loop runs in this thread
            is_off_loop = True
        else:
            if current is None or current is self.task:  # a callback has no task
                return
            is_off_loop = in_greenlet()
        if not is_off_loop:
            raise NoSession(
                f"{self.owner}: model code looked for its session in another task, which may outlive it or "
                "work for other requests too: `await self.run(function, …)` and `self.session` are the "
                f"request's in any task; a task with work of its own: {_ELSEWHERE}"
            )
        if self.guard is not None:
            self.guard.check()


# Without a default: where no session was entered, none is found, and nothing is made up.
_entry: ContextVar[Entry] = ContextVar("onfinish_session")

_ELSEWHERE = "`async with database.unit_of_work() as unit` and `with entered(unit.session)`"


def current_session() -> Session:
    """The session of the request, message or job that the caller works for.

    Raises:
        NoSession: none was entered in this context; the request has finished, or the block was left; or the
            caller is in another task than the one that entered it, which may outlive the request or serve
            others. Nothing was done.
        OutsideRun: the caller is in a thread with a copy of the context, and not in ``run``.
    """
    entry = _entry.get(None)
    if entry is None:
        raise NoSession(
            "no session in this context: it is that of no request, or of a thread or a hook that did not get "
            "the request's. In a handler: `await self.run(function, …)`, or pass `self.session`; elsewhere: "
            f"{_ELSEWHERE}"
        )
    session = entry.session
    if session is None:
        raise NoSession(
            f"{entry.owner}: has ended, and model code looked for its session: call it before `finish()`; "
            f"later work has a unit of work of its own, `self.in_new_transaction(…)`, or {_ELSEWHERE}"
        )
    if entry.task is not None:
        entry.check()
    return session


class Contextvar(Scope):
    """As good as a context variable can be made: no default, left by its owner, set again for each call.

    Its variable is the module's, as context variables have to be: all instances are one.
    """

    name = "contextvar"

    def enter(self, session: Session) -> Entry:
        try:
            return Entry(session, asyncio.current_task())
        except RuntimeError:  # no loop runs in this thread
            return Entry(session, None)

    def leave(self, entered: object) -> None:
        entry = cast("Entry", entered)
        entry.session = None  # in all copies of the context
        token, entry.token = entry.token, None  # which has the entry before it, and that one its own
        if token is None or token.old_value is Token.MISSING or token.old_value.session is None:
            return  # the variable keeps the entry, for an error that names the last owner
        # A ValueError: it was entered in another context, by a `prepare` under @gen.coroutine or for a child
        # task that calls finish().
        with contextlib.suppress(ValueError):
            _entry.reset(token)

    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        @wraps(function)
        def twin(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(current_session(), *args, **kwargs)

        return twin

    def carry(self, function: Callable[P, R], session: Session) -> Callable[P, R]:
        """The function with the variable set while it runs: what goes through `run` finds its own session
        also where the request's context has been lost, and in any task."""

        @wraps(function)
        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            # The call has a copy of the caller's context to itself: nothing has to be put back.
            Entry(session, None)
            return function(*args, **kwargs)

        return carried


entered = Contextvar().entered
"""``with entered(unit.session):`` makes a session the one that `current_session` finds: for a job, a test."""
