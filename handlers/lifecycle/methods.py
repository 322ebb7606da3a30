"""What a handler does with its session, the same for a request and for a WebSocket's message."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.orm import Session

from db import passes_on
from handlers.lifecycle.request_transaction import RequestTransaction

P = ParamSpec("P")
R = TypeVar("R")


class TransactionMethods:
    """The methods of a handler that owns a session. Each is for the transaction under way."""

    def _begun(self) -> RequestTransaction:
        """The transaction under way.

        Raises:
            UsageError: there is none.
        """
        raise NotImplementedError

    @property
    def session(self) -> Session:
        """The session, to be passed to model functions. Sends SQL only inside of `run`."""
        return self._begun().unit.session

    def session_of(self, name: str) -> Session:
        """The session at another database of the application, one of its setting ``databases``.

        It is a unit of work of its own there, made by the first call: as `session`, it is passed to a model
        function by `run`, one at a time; it has the request's deadline and ends with it. What is committed at
        both is not atomic: the other databases are committed first, in the order in which they were asked
        for, and ``database`` last. Where one fails, no later one is committed; if an earlier one was, the
        answer is `PartlyCommitted`, with the outcome "unknown".

        Raises:
            UsageError: there is no such database, or `commit` or ``finish()`` was called before.
        """
        return self._begun().session_of(name)

    @passes_on
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call a plain function that works with the session, or one of `session_of`, where it may wait.

        Has to be awaited: a call that was made and has not started at the end fails the transaction.

        Raises:
            DatabaseError: see `AsyncUnitOfWork.run`. Uncaught, it becomes the response.
            Exception: any exception of the function.
        """
        transaction = self._begun()
        unit = transaction.unit_for((*args, *kwargs.values())) if transaction.others else transaction.unit
        return unit.run(function, *args, **kwargs)

    async def commit(self) -> None:
        """Commit now, and release the connection: for slow work outside of the database that follows.

        Functions given to `before_commit` are called first. The session cannot be used afterwards, and
        nothing is retried. A later error is answered with ``"outcome": "applied"``. A cancelled caller
        does not cancel the commit: the response waits for it.

        Raises:
            DatabaseError: nothing was committed, or (`OutcomeUnknown`) that is not known.
        """
        await self._begun().commit()

    def before_commit(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call ``function(session, …)`` as the last work of this unit, just before COMMIT.

        It runs as by `run`, after ``finish()``, for work that needs the finished response; or in `commit`.
        An exception rolls the work back, and is answered in place of the success.

        Raises:
            UsageError: `commit` was called before, or ``finish()``; nothing is registered.
        """
        self._begun().before_commit(function, args, kwargs)

    def on_commit(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function, plain or async, once the work is committed; never if it is rolled back.

        When the answer has left: a coroutine function on the event loop, a plain one in a thread, where it
        may block. A plain function that uses objects of the loop's, such as a socket's `write_message`,
        belongs into an async one. They are called in their order, each when the one before has ended. What
        it raises is logged.

        Raises:
            UsageError: ``finish()`` was called before, and not in such a function; nothing is registered.
        """
        self._begun().on_commit(partial(function, *args, **kwargs))

    def in_new_transaction(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call ``function(session, …)`` in a unit of work of its own, after this one's commit or rollback.

        For the audit row that must survive a rollback. It is committed before the answer leaves; what
        it raises is logged.

        Raises:
            UsageError: ``finish()`` was called before; nothing is registered.
        """
        self._begun().in_new_transaction(function, args, kwargs)
