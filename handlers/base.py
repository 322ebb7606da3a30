"""The life of a request's session: made in `prepare`, committed or rolled back in `on_finish`.

::

    prepare            unit of work made: a session, no connection yet
       |               the request's connection is wrapped: the response is HELD
       v
    get/post/…         await self.run(tasks.get_task, self.session, task_id=…)
       |
       v
    finish()           Tornado's own: headers and body go into the held response
       |
       v
    on_finish()        commit, or roll back, off the loop
       |                   ok       -> the held response leaves
       |                   conflict -> dropped; a fresh handler runs the request again
       |                   failed   -> dropped; a fresh handler of the same class answers the error
       v
    closed             connection checked in to the pool; access line logged with the outcome
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar

from sqlalchemy.orm import Session
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError, _has_stream_request_body
from tornado.websocket import WebSocketHandler

from db import AsyncUnitOfWork, Database, Outcome, passes_on
from db.errors import (
    Cancelled,
    ClientDisconnected,
    ConnectionLost,
    DeadlinePassed,
    RetryableConflict,
    Unavailable,
    UsageError,
)
from handlers.json_api.errors import is_fault, leaves_unknown, meant, status_of
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.attempts import RequestAttempts, attempts_of
from handlers.lifecycle.held_response import HeldResponse, ResponseDropped, StreamedResponse
from handlers.lifecycle.hooks import CommitHooks, ExplicitCommit
from handlers.lifecycle.instrumentation import Instrumentation, Traced
from handlers.lifecycle.overrides import check_overrides, forgotten
from handlers.lifecycle.retry import CONFLICTS, backoff_s

log = logging.getLogger("onfinish.handlers")

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT_S = 30.0

_SWALLOWED_CANCEL_S = 1.0
"""How long a handler that was cancelled at its deadline may take to end before 504 is sent in its place."""

_TOO_LATE = "the time for this request ran out after its work had been applied"

_OUTCOMES = {Outcome.COMMITTED: "applied", Outcome.UNKNOWN: "unknown"}
"""The outcomes as clients read them; any other is "not_applied"."""


class SessionHandler(ProblemHandler):
    """A handler whose request owns one session and is one transaction.

    Lives as long as one attempt at a request. GET and HEAD use the reader, which cannot write; all other
    methods use the writer. The work is committed if nothing was raised before ``finish()`` and the status is
    below 400, and rolled back otherwise. No byte of the response is sent before that is done.

    A subclass that overrides `prepare`, `on_finish` or `log_exception` calls ``super()``.

    The application's settings: ``database`` (a `Database`, required), ``request_timeout_s`` (30).
    """

    streams: ClassVar[bool] = False
    """The response is sent while it is written. Read-only, in one snapshot; no deadline but `timeout_s`."""

    snapshot: ClassVar[bool] = False
    """All reads of a read-only request see one snapshot of the database, taken at the first of them."""

    read_only: ClassVar[bool | None] = None
    """Whether the request uses the reader, where the database refuses writes. None: GET and HEAD do."""

    retry: ClassVar[bool] = True
    """A request that the database refuses as a conflict is retried from its start.

    Effects of a method outside of the database are then repeated: they belong into `on_commit`.
    """

    timeout_s: ClassVar[float | None] = None
    """This handler's own deadline, in seconds from `prepare`."""

    cancel_on_disconnect: ClassVar[bool | None] = None
    """Whether a client that disconnects cancels its request. None: reads are cancelled, writes are not."""

    _instrumented_hooks = ("prepare", "log_exception", "on_finish")
    _hooks: CommitHooks
    _explicit_commit: ExplicitCommit
    _attempts: RequestAttempts | None = None
    _unit: AsyncUnitOfWork | None = None
    _response: HeldResponse | StreamedResponse | None = None
    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _raised: BaseException | None = None
    _stopped: Cancelled | None = None
    _conflict: RetryableConflict | ConnectionLost | None = None
    _failed = _answered = _client_gone = _closed = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, WebSocketHandler):
            raise TypeError(
                f"{cls.__qualname__} is a WebSocket handler: its handshake cannot be held until a COMMIT. "
                "`SessionWebSocketHandler` gives each message a session of its own"
            )
        check_overrides(cls, SessionHandler)

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        attempts = self._attempts = attempts_of(request)
        if attempts is not None and attempts.error is not None:
            # A subclass's `prepare` may count, authenticate, or consume a nonce: it has already run.
            self.prepare = self._answer_with_error  # type: ignore[method-assign]
        super().__init__(application, request, **kwargs)

    # -- what a handler uses

    @property
    def session(self) -> Session:
        """The request's own session, to be passed to model functions. Sends SQL only inside of `run`."""
        return self._begun().session

    @passes_on
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call a plain function that works with the session, off the event loop.

        Has to be awaited: a call that was made and has not started when the request ends fails the request.

        Raises:
            DatabaseError: see `AsyncUnitOfWork.run`. Uncaught, it becomes the response.
            Exception: any exception of the function.
        """
        return self._begun().run(function, *args, **kwargs)

    async def commit(self) -> None:
        """Commit now, and release the connection: for slow work outside of the database that follows.

        Functions given to `before_commit` are called first. The session cannot be used afterwards, and the
        request is not retried. A later error is answered with ``"outcome": "applied"``. A cancelled caller
        does not cancel the commit: the response waits for it.

        Raises:
            DatabaseError: nothing was committed, or (`OutcomeUnknown`) that is not known.
        """
        unit = self._begun()
        await self._explicit_commit.make(unit, self._hooks.last_work)
        await self._hooks.on_commit.call(self._summary())

    def before_commit(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call ``function(session, …)`` as the last work of this unit, just before COMMIT.

        It runs off the loop, after ``finish()``, for work that needs the finished response; or in `commit`.
        An exception rolls the request back, and is answered in place of the success.

        Raises:
            UsageError: `commit` was called before, or ``finish()``; nothing is registered.
        """
        self._check_not_answered("before_commit")
        if self._explicit_commit.begun:
            raise UsageError(
                f"{self._summary()}: before_commit() was called after commit(), and would never be run: "
                "register the function first"
            )
        self._hooks.before_commit(function, args, kwargs)

    def on_commit(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function, plain or async, once the work is committed; never if it is rolled back.

        It runs on the event loop when the answer has left. What it raises is logged.

        Raises:
            UsageError: ``finish()`` was called before, and not in such a function; nothing is registered.
        """
        if self._unit is None or not self._hooks.on_commit.under_way:
            self._check_not_answered("on_commit")
        self._hooks.on_commit.add(lambda: function(*args, **kwargs))

    def in_new_transaction(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call ``function(session, …)`` in a unit of work of its own, after this one's commit or rollback.

        For the audit row that must survive a rollback. It is committed before the answer leaves; what
        it raises is logged.

        Raises:
            UsageError: ``finish()`` was called before; nothing is registered.
        """
        self._check_not_answered("in_new_transaction")
        self._hooks.follow_up(function, args, kwargs)

    @property
    def work_outcome(self) -> str:
        """The outcome of the request's work, for the access line: read, kept, undone or unknown."""
        return self._work.value

    @property
    def outcome(self) -> str:
        """The outcome in an error response: not_applied, applied or unknown."""
        return _OUTCOMES.get(self._work, "not_applied")

    @property
    def _work(self) -> Outcome:
        if self._unit is not None:
            return self._unit.outcome
        return Outcome.ROLLED_BACK if self._attempts is None else self._attempts.work

    # -- Tornado's hooks, in the order of their calls

    def prepare(self) -> Awaitable[None] | None:
        """Create the session and hold the response. Subclasses call ``super().prepare()`` first.

        Not called for an unknown method, an unreadable body, or a request refused as cross-origin.
        """
        self._task = asyncio.current_task()
        if self._unit is not None or self._task is None:
            raise UsageError(
                f"{self._summary()}: prepare() is to be reached once, before anything is awaited or yielded: "
                "call `super().prepare()` first"
            )
        attempts = self._attempts = self._attempts or self._first_attempt()
        if attempts.attempt == 1 and self._comes_too_late:
            raise Unavailable("the service is shutting down", retry_after_s=5)
        self._unit = self._database.unit_of_work(
            label=f"{self.request.method} {type(self).__name__}",
            read_only=self._reads,
            snapshot=self._reads and (self.snapshot or self.streams),
            deadline_at=attempts.deadline_at,
            origin=self.request,
            retries=self._can_retry,
        )
        self._hooks = CommitHooks()
        self._explicit_commit = ExplicitCommit()
        connection = attempts.connection
        self._response = (
            StreamedResponse(connection) if self.streams else HeldResponse(connection, self.request.method)
        )
        self.request.connection = self._response
        self._task.add_done_callback(self._task_ended)
        if attempts.deadline_at is not None:
            left_s = attempts.deadline_at - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(left_s, self._deadline_passed)
        return _Done()  # may be awaited, and need not be

    def _answer_with_error(self) -> None:
        """In place of `prepare`: raise the error with which an earlier handler of this request has ended."""
        task, error = asyncio.current_task(), self._attempted().error
        if task is not None and error is not None:
            task.add_done_callback(self._error_ended)
            raise error

    def _error_ended(self, task: asyncio.Task[Any]) -> None:
        """The task that answers an error has ended; without a response if its page raised no `Exception`."""
        if self._finished:
            return
        if self._headers_written:
            self._attempted().connection.close()
        else:
            self._attempted().answer_without_handler()
        self.set_status(500)
        self._write_access_line()

    def flush(self, include_footers: bool = False) -> Any:
        """As Tornado's, for a handler that `streams`.

        Raises:
            RuntimeError: part of a response would be sent before its COMMIT.
        """
        if not include_footers and self._unit is not None and not self.streams:
            raise RuntimeError(
                f"{type(self).__name__}: flush() before the end would send part of a response before its "
                "COMMIT. Write it all, and `finish()` sends it; for a long response that only reads, set "
                "`streams = True`"
            )
        if self._unit is None and self._attempts is not None and not self._headers_written:
            self.set_header("Server-Timing", self._attempts.server_timing)
        return super().flush(include_footers)

    def on_connection_close(self) -> None:
        """The client has disconnected: a read is cancelled, a write completes; see `cancel_on_disconnect`."""
        super().on_connection_close()
        self._client_gone = True
        cancels = self._reads if self.cancel_on_disconnect is None else self.cancel_on_disconnect
        if cancels and self._unit is not None and not self._answered:
            self._stopped = ClientDisconnected()
            self._unit.cancel(self._stopped)

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Record the exception, which rolls the request back; log it, unless one of three things holds.

        The request is retried for it; the exception is answered again when the commit under way has ended;
        or the request was cancelled: exceptions of a handler whose session was taken away are not its fault.
        """
        self._fail(value)
        if (
            self._stopped is None
            and not isinstance(value, ResponseDropped)
            and not self._commits
            and not (isinstance(meant(value), CONFLICTS) and self._may_retry())
        ):
            super().log_exception(typ, value, tb)

    def _trace_exception(self, error: BaseException | None) -> None:
        if self._attempts is None:  # rejected before `prepare`
            super()._trace_exception(error)
        elif self._attempts.traced is not None and error is not None and is_fault(error):
            self._attempts.traced.failed(error)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As Tornado's; for a handler that was cancelled, the response is the reason of that."""
        if self._stopped is not None:
            kwargs["exc_info"] = (type(self._stopped), self._stopped, None)
        self._fail(kwargs["exc_info"][1] if "exc_info" in kwargs else None)
        if self._response is not None and self._response.has_left:
            self.finish()  # too late for an error response: the connection is closed instead
        else:
            super().send_error(status_code, **kwargs)

    def on_finish(self) -> None:
        """Commit or roll back what was done before ``finish()``; the response is sent when that is done.

        Runs without `prepare` where Tornado itself rejected the request: then there is nothing to
        settle. Does not run for a request that ends without a response: `_task_ended` settles that.
        """
        if self._unit is None or self._answered:
            return
        self._answered = True
        if _has_stream_request_body(type(self)):
            self.data_received = _ignore  # type: ignore[method-assign]  # the body continues: the response is held
        fault = None if self._response is None else self._response.fault
        keep = not self._failed and fault is None and self.get_status() < 400
        commits = self._commits
        if not (self._hooks or commits) and self._unit.settle_at_once(keep=keep):
            self._check_for_conflict(fault or self._raised)
            self._respond(fault)
        else:
            self._database.start(self._settle(keep, fault, commits))

    # -- the end of a request

    async def _settle(self, keep: bool, fault: Exception | None, commits: bool) -> None:
        if commits or self._commits:  # a commit that was under way at `on_finish` may have ended since
            fault = await self._await_commit() or fault
        self._check_for_conflict(fault or self._raised)
        try:
            last = None if self._explicit_commit.begun else self._hooks.last_work
            await self._begun().settle(keep=keep, last=last, follow_ups=self._due_follow_ups)
        except Exception as error:  # noqa: BLE001
            fault = fault or error  # the first of them is answered
        if self._conflict is not None:
            await asyncio.sleep(backoff_s(self._attempted().attempt))
        self._respond(fault)
        if self._has_committed or (keep and fault is None):
            await self._hooks.on_commit.call(self._summary())

    async def _await_commit(self) -> Exception | None:
        """Wait for a `commit` whose caller is gone. Returns the error to be answered instead, if any.

        An exception that the handler has raised meanwhile is answered again, with the outcome of the commit.
        """
        error = await self._explicit_commit.end()
        raised = self._raised
        if error is not None:
            if raised is not None and self._stopped is None and not isinstance(meant(raised), CONFLICTS):
                super().log_exception(type(raised), raised, raised.__traceback__)
            return error
        if self._stopped is not None:
            return DeadlinePassed(_TOO_LATE) if isinstance(self._stopped, DeadlinePassed) else self._stopped
        if not self._failed and self.get_status() < 400:
            return None
        if raised is None:  # send_error() with a status alone
            return HTTPError(self.get_status())
        return raised if isinstance(raised, Exception) else UsageError(f"{self._summary()}: was cancelled")

    def _check_for_conflict(self, error: BaseException | None) -> None:
        conflict = meant(error)  # a conflict in a task of a TaskGroup is one, too
        if leaves_unknown(error):  # a retry could apply the work twice
            self._conflict = None
        elif isinstance(conflict, CONFLICTS) and self._may_retry():
            self._conflict = conflict

    def _due_follow_ups(self, error: Exception | None) -> list[Callable[[Session], object]]:
        """The functions for units of work of their own: once a request, at the attempt that is answered."""
        self._check_for_conflict(error)
        return [] if self._conflict is not None else self._hooks.follow_ups

    def _respond(self, fault: Exception | None) -> None:
        """The unit is settled: send the response, or have another handler produce another one."""
        attempts, response = self._attempted(), self._response
        attempts.add(self._begun())
        attempts.work = Outcome.UNKNOWN if leaves_unknown(fault) else self._work
        self._clear()
        if response is None or response.has_left:
            self._close()
        elif self._conflict is not None:
            response.drop()
            attempts.retry(self._conflict.reason, summary=self._summary())
        elif fault is not None:
            response.drop()
            attempts.answer_with_error(fault)
        else:
            self._release(response, attempts)
            self._close()

    def _release(self, response: HeldResponse | StreamedResponse, attempts: RequestAttempts) -> None:
        try:
            status = response.release({"Server-Timing": attempts.server_timing})
        except Exception:  # a header that was set after finish(), and that cannot be written
            # The work is committed, so an error would be false, and how much was sent is not known.
            log.exception("%s: the response could not be sent; its connection is closed", self._summary())
            response.drop()
            attempts.connection.close()
            status = 500
        self.set_status(status)  # for the access line: the handler may have set another since

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        """The request's task has ended; if that was without a response, roll back and send one."""
        if self._answered:
            return
        if self._response is not None and self._response.finished:
            fault: Exception = TypeError(forgotten(type(self), "on_finish"))
        else:
            fault = UsageError(f"{self._summary()}: the handler ended without a response")
        self._fail(fault)
        self._answered = True
        self._database.start(self._settle_unanswered(fault, self._commits))

    async def _settle_unanswered(self, fault: Exception, commits: bool) -> None:
        fault = (await self._explicit_commit.end() if commits or self._commits else None) or fault
        try:
            await self._begun().settle(keep=False, follow_ups=self._due_follow_ups)
        except Exception as error:  # noqa: BLE001  # another than the unit has ended its transaction
            fault = error
        response = self._response
        has_left = response is not None and response.has_left
        if not (self._client_gone or has_left):
            self._respond(fault)
        else:
            if self._client_gone:  # an aborted streamed upload
                self.set_status(status_of(ClientDisconnected()), "Client Closed Request")
            elif response is not None:
                log.error("%s", fault)  # there is no client left to send it to
                response.drop()
            self._clear()
            self._close()
        if self._has_committed:
            await self._hooks.on_commit.call(self._summary())

    def _deadline_passed(self) -> None:
        """Cancel the unit's statement and the handler. A COMMIT that has been sent may still complete."""
        self._stopped = DeadlinePassed(_TOO_LATE) if self._has_committed else DeadlinePassed()
        self._begun().cancel(self._stopped)
        if not self._answered and self._task is not None:
            self._task.cancel()
            self._timer = asyncio.get_running_loop().call_later(
                _SWALLOWED_CANCEL_S, self._answer_in_its_place
            )

    def _answer_in_its_place(self) -> None:
        if not self._answered:
            self.send_error(504)

    def _fail(self, error: BaseException | None) -> None:
        if not self._answered:
            self._failed = True
            self._raised = self._raised or error
            if self._response is not None:
                self._response.fail()

    def _clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # The exception references the frames that raised it, and with them this handler.
        self._task = self._timer = self._raised = None

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._write_access_line()

    def _log(self) -> None:
        """Tornado calls this before `on_finish`; with a unit of work the line is written at its outcome."""
        if self._unit is None:
            self._write_access_line()

    def _write_access_line(self) -> None:
        try:
            super()._log()
        except Exception:
            log.exception("%s: the application's log_function failed", self._summary())
        if self._instrumentation is not None:
            self._end_trace(self._instrumentation)

    def _end_trace(self, instrumentation: Instrumentation) -> None:
        """End the trace with the status that was sent to the client."""
        if self._attempts is None:  # rejected before `prepare`
            instrumentation.call("on_finish", self)
        elif self._attempts.traced is not None:
            self._attempts.traced.ended(self.get_status())
            self._attempts.traced = None

    # -- queries

    @property
    def _reads(self) -> bool:
        if self.read_only is not None:
            return self.read_only
        return self.streams or self.request.method in ("GET", "HEAD")

    @property
    def _has_committed(self) -> bool:
        return self._unit is not None and self._explicit_commit.done

    @property
    def _commits(self) -> bool:
        """Whether a `commit` is under way."""
        return self._unit is not None and self._explicit_commit.under_way

    @property
    def _database(self) -> Database:
        self.require_setting("database", "sessions")
        database: Database = self.settings["database"]
        return database

    @property
    def _comes_too_late(self) -> bool:
        """Whether the service was shutting down when this request began; its body may have come later."""
        since: float | None = self.settings.get("refuses_requests_since")
        return since is not None and time.time() - self.request.request_time() > since

    def _first_attempt(self) -> RequestAttempts:
        timeout_s = self.timeout_s
        if timeout_s is None and not self.streams:
            timeout_s = self.settings.get("request_timeout_s", DEFAULT_TIMEOUT_S)
        attempts = RequestAttempts(self.application, self.request, timeout_s=timeout_s)
        if self._instrumentation is not None:
            attempts.traced = Traced(self._instrumentation, self)
        return attempts

    @property
    def _can_retry(self) -> bool:
        return self.retry and not (self.streams or _has_stream_request_body(type(self)))

    def _may_retry(self) -> bool:
        attempts = self._attempted()
        return (
            self._can_retry
            and attempts.error is None
            and not (self._commits or self._has_committed)
            and attempts.attempt < self._database.settings.attempts_max
            and (attempts.deadline_at is None or time.monotonic() < attempts.deadline_at)
        )

    def _begun(self) -> AsyncUnitOfWork:
        if self._unit is None:
            raise UsageError(f"{self._summary()}: there is no session: {forgotten(type(self), 'prepare')}")
        return self._unit

    def _check_not_answered(self, method: str) -> None:
        self._begun()
        if self._answered:  # the work may be settled already
            raise UsageError(
                f"{self._summary()}: {method}() was called after finish(), and might never be run: register "
                "the function first"
            )

    def _attempted(self) -> RequestAttempts:
        if self._attempts is None:
            raise UsageError(f"{self._summary()}: {forgotten(type(self), 'prepare')}")
        return self._attempts

    def _summary(self) -> str:
        return f"{self.request.method} {type(self).__name__} [{self.request_id}]"


class _Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


def _ignore(chunk: bytes) -> None:
    """Discard the rest of a body."""
