"""The handler whose request owns one session and is one transaction.

::

    prepare            unit of work made: a session, no connection yet
       |               the request's connection is wrapped: the response is HELD
    get/post/…         await self.run(tasks.get_task, self.session, task_id=…)
       |
    finish()           Tornado's own: headers and body go into the held response
       |
    on_finish()        commit, or roll back; the loop goes on
       |                   ok       -> the held response leaves
       |                   conflict -> dropped; a fresh handler runs the request again
       |                   failed   -> dropped; a fresh handler of the same class answers the error
    closed             connection checked in to the pool; access line logged with the outcome

`HttpTransaction.commit_or_roll_back` commits if nothing was raised and the status is below 400. What was
raised is recorded by `log_exception`, an error's status by `send_error`; the deadline and a client that left
cancel the statement (`RequestTransaction.cancel`). What is retried: `RequestTransaction.retries`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import TracebackType
from typing import Any, ClassVar, Literal

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from db import Outcome
from db.errors import UsageError
from handlers.lifecycle.attempts import RequestAttempts, attempts_of
from handlers.lifecycle.errors import Problem, http_error_of, status_of
from handlers.lifecycle.held_response import HeldResponse, StreamedResponse
from handlers.lifecycle.http_transaction import DONE, HttpTransaction, check_is_first, first_attempt
from handlers.lifecycle.instrumentation import InstrumentedHandler, Traced
from handlers.lifecycle.methods import TransactionMethods
from handlers.lifecycle.outcome import told
from handlers.lifecycle.overrides import check_overrides, forgotten


class SessionHandler(TransactionMethods, InstrumentedHandler):
    """Tornado's `RequestHandler`, and the life of a session. Lives as long as one attempt at a request.

    A subclass that overrides `prepare`, `on_finish` or `log_exception` calls ``super()``. The face is
    Tornado's: error pages, ETag, headers, OPTIONS. Its methods with the session are `TransactionMethods`'.

    Settings of the application: ``database`` (required), ``databases`` (others: see `session_of`),
    ``request_timeout_s`` (30), ``retry_on`` (errors), ``database_messages``, ``server_timing_counts``.
    """

    streams: ClassVar[bool] = False
    """The response is sent while it is written. Read-only, in one snapshot; no deadline but `timeout_s`."""

    snapshot: ClassVar[bool] = False
    """All reads of a read-only request see one snapshot of the database, taken at the first of them."""

    read_only: ClassVar[bool | None] = None
    """Whether the request uses the reader, where the database refuses writes. None: GET and HEAD do."""

    isolation: ClassVar[str | None] = None
    """The isolation level of the transaction, such as "SERIALIZABLE". None: the engine's."""

    executor: ClassVar[Literal["threads"] | None] = None
    """"threads" for functions that compute for long or block, where the driver waits on the event loop."""

    retry: ClassVar[bool] = True
    """A request that the database refuses as a conflict is retried from its start, in a fresh handler.
    Effects outside of the database are then repeated: they belong into `on_commit`."""

    retry_on: ClassVar[tuple[type[Exception], ...]] = ()
    """Further errors that are retried."""

    timeout_s: float | None = None
    """This handler's own deadline, in seconds from `prepare`; for one request it is set before that."""

    cancel_on_disconnect: ClassVar[bool | None] = None
    """Whether a client that disconnects cancels its request. None: reads are cancelled, writes are not."""

    _instrumented_hooks = ("prepare", "log_exception", "on_finish")
    _attempts: RequestAttempts | None = None
    _transaction: HttpTransaction | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_overrides(cls, SessionHandler)

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        attempts = self._attempts = attempts_of(request)
        if attempts is not None:
            attempts.take_over(self, request)
        super().__init__(application, request, **kwargs)

    @property
    def answer(self) -> HeldResponse | StreamedResponse:
        """The answer that ``finish()`` has made, for `on_finish` and the like: status, headers, body."""
        return self._begun().attempts.response

    @property
    def work_outcome(self) -> str:
        """The outcome of the request's work, for the access line: read, kept, undone or unknown."""
        return self._work.value

    @property
    def _statements(self) -> int | None:
        """How many statements all attempts have sent, for the access line; None where none was begun."""
        return None if self._attempts is None else self._attempts.statements

    @property
    def outcome(self) -> str:
        """The outcome in an error response: not_applied, applied or unknown."""
        return told(self._work)

    # -- Tornado's hooks, in the order of their calls

    def prepare(self) -> Awaitable[None] | Any:
        """Create the session, hold the response. Subclasses call ``super().prepare()`` first, awaited or not.

        Not called for an unknown method, an unreadable body, or a request refused as cross-origin.
        """
        check_is_first(self, self._transaction)
        self._attempts = self._attempts or first_attempt(self)
        self._attempts.hold(self.request, streams=self.streams)
        self._transaction = HttpTransaction(self, self._attempts)
        return DONE

    def flush(self, include_footers: bool = False) -> Any:
        """As Tornado's, for a handler that `streams`; `RuntimeError` in any other, before COMMIT."""
        if self._transaction is not None and (self.streams or not include_footers):
            self._transaction.check_flush()
        return super().flush(include_footers)

    def on_connection_close(self) -> None:
        """The client has disconnected: a read is cancelled, a write completes; see `cancel_on_disconnect`."""
        super().on_connection_close()
        if self._transaction is not None:
            self._transaction.client_left(self.cancel_on_disconnect)

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Record the exception, which rolls the request back; log it, unless one of three things holds.

        The request is retried for it; the exception is answered again when the commit under way has ended;
        or the request was cancelled: exceptions of a handler whose session was taken away are not its fault.
        """
        if self._transaction is None or self._transaction.is_to_be_logged(value):
            super().log_exception(typ, value, tb)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As Tornado's, and roll back. Where the request was cancelled the reason of that is answered."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if self._transaction is not None:
            self._transaction.fail(error)
            error = self._transaction.stopped or error
        if self._attempts is not None and self._attempts.response.has_left:
            self.finish()  # too late for an error response: the connection is closed instead
            return
        if error is not None:
            error = http_error_of(error)
            kwargs["exc_info"] = (type(error), error, error.__traceback__)
            status_code = status_of(error, status_code)
            if self._attempts is not None:
                self._attempts.error_headers = error.headers if isinstance(error, Problem) else {}
        super().send_error(status_code, **kwargs)

    def on_finish(self) -> None:
        """Commit or roll back what was done before ``finish()``; the response is sent when that is done.

        Not called for a request that ends without a response: `HttpTransaction` settles that.
        """
        if self._transaction is not None:
            self._transaction.commit_or_roll_back()
        elif self._attempts is not None:  # it answers an error, or `prepare` has: there is nothing to commit
            self._attempts.send(self)

    def _log_raised(self, error: BaseException) -> None:
        """Log an error that is not the one that is answered."""
        super().log_exception(type(error), error, error.__traceback__)

    def access_line_is_due(self) -> None:
        """Write the access line; of a held response that is done when it has left."""
        if self._attempts is None:
            self._write_access_line()

    @property
    def _work(self) -> Outcome:
        if self._transaction is not None:
            return self._transaction.outcome
        return Outcome.ROLLED_BACK if self._attempts is None else self._attempts.work

    def _begun(self) -> HttpTransaction:
        if self._transaction is None:
            raise UsageError(f"{self._summary}: there is no session: {forgotten(type(self), 'prepare')}")
        return self._transaction

    @property
    def _traced(self) -> Traced | None:
        return None if self._attempts is None else self._attempts.traced
