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
    closed             connection back in the pool; the access line says what really happened
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
from handlers.lifecycle.hooks import CommitHooks, EarlyCommit
from handlers.lifecycle.instrumentation import Instrumentation, Traced
from handlers.lifecycle.overrides import check_overrides, forgotten
from handlers.lifecycle.retry import CONFLICTS, backoff_s

log = logging.getLogger("onfinish.handlers")

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT_S = 30.0

_SWALLOWED_CANCEL_S = 1.0
"""How long a handler that was cancelled at its deadline may take to end before it is answered for."""

_TOO_LATE = "the time for this request ran out after its work had been applied"

_OUTCOMES = {Outcome.COMMITTED: "applied", Outcome.UNKNOWN: "unknown"}
"""What a client is told has become of the work; of any other outcome, that it is not applied."""


class SessionHandler(ProblemHandler):
    """A handler whose request owns one session and is one transaction.

    Lives as long as one attempt at a request. GET and HEAD work on the reader, which cannot write;
    all other methods on the writer. The work is kept if nothing was raised before ``finish()`` and the
    status is below 400, and undone otherwise. No byte of the answer leaves before that is done.

    A subclass that overrides `prepare`, `on_finish` or `log_exception` calls ``super()``.

    The application's settings: ``database`` (a `Database`, required), ``request_timeout_s`` (30).
    """

    streams: ClassVar[bool] = False
    """The answer leaves while it is made. Read-only, in one snapshot; no deadline but `timeout_s`."""

    snapshot: ClassVar[bool] = False
    """All reads of a read-only request see the database as it was at the first of them."""

    read_only: ClassVar[bool | None] = None
    """Whether the request works on the reader, where the database refuses writes. None: GET and HEAD do."""

    retry: ClassVar[bool] = True
    """A request that the database refuses as a conflict is run again from its start.

    What a method does outside of the database is then done twice: that belongs into `on_commit`.
    """

    timeout_s: ClassVar[float | None] = None
    """This handler's own deadline, in seconds from `prepare`."""

    cancel_on_disconnect: ClassVar[bool | None] = None
    """Whether a client that leaves takes its request along. None: reads, and not writes."""

    _instrumented_hooks = ("prepare", "log_exception", "on_finish")
    _hooks: CommitHooks
    _early: EarlyCommit
    _attempts: RequestAttempts | None = None
    _unit: AsyncUnitOfWork | None = None
    _response: HeldResponse | StreamedResponse | None = None
    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _raised: BaseException | None = None
    _stopped: Cancelled | None = None
    _again: RetryableConflict | ConnectionLost | None = None
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
        exchange = self._attempts = attempts_of(request)
        if exchange is not None and exchange.refusal is not None:
            # A subclass's `prepare` may count, log in, or use up a nonce: it has had its turn.
            self.prepare = self._refuse  # type: ignore[method-assign]
        super().__init__(application, request, **kwargs)

    # -- what a handler uses

    @property
    def session(self) -> Session:
        """The request's own session, to be passed on to model functions. Sends SQL only inside of `run`."""
        return self._begun().session

    @passes_on
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call a plain function that works with the session, off the event loop.

        To be awaited: a call that was made and has not begun when the request ends fails it.

        Raises:
            DatabaseError: see `AsyncUnitOfWork.run`. What is not caught answers the request.
            Exception: whatever the function raises.
        """
        return self._begun().run(function, *args, **kwargs)

    async def commit(self) -> None:
        """Settle early, and give the connection back: for slow work outside of the database that follows.

        What `before_commit` was given is called now. The session cannot be used afterwards, and the request
        is not run again. An error that comes later is answered with ``"outcome": "applied"``. A caller that
        is cancelled does not cancel the commit: the answer waits for it.

        Raises:
            DatabaseError: nothing was kept, or (`OutcomeUnknown`) nobody knows.
        """
        unit = self._begun()
        await self._early.make(unit, self._hooks.last_work)
        await self._hooks.on_commit.call(self._summary())

    def before_commit(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call ``function(session, …)`` as the last work of this unit, just before COMMIT.

        It runs off the loop, after ``finish()``: for what needs the finished answer; or in `commit`. What it
        raises undoes the request, and is answered in place of the success.

        Raises:
            UsageError: `commit` was called before, or ``finish()``; nothing is registered.
        """
        self._check_not_answered("before_commit")
        if self._early.begun:
            raise UsageError(
                f"{self._summary()}: before_commit() was called after commit(), and would never be run: "
                "register the function first"
            )
        self._hooks.before_commit(function, args, kwargs)

    def on_commit(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function, plain or async, once the work is committed; never if it is undone.

        It runs on the event loop when the answer has left. What it raises is logged.

        Raises:
            UsageError: ``finish()`` was called before, and not in such a function; nothing is registered.
        """
        if self._unit is None or not self._hooks.on_commit.under_way:
            self._check_not_answered("on_commit")
        self._hooks.on_commit.add(lambda: function(*args, **kwargs))

    def in_new_transaction(self, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call ``function(session, …)`` in a unit of work of its own once this one is settled, kept or not.

        For the audit row that must survive a rollback. It is committed before the answer leaves; what
        it raises is logged.

        Raises:
            UsageError: ``finish()`` was called before; nothing is registered.
        """
        self._check_not_answered("in_new_transaction")
        self._hooks.follow_up(function, args, kwargs)

    @property
    def work_outcome(self) -> str:
        """What has become of the request's work, for the access line: read, kept, undone or unknown."""
        return self._work.value

    @property
    def outcome(self) -> str:
        """What an error answer says of it: not_applied, applied or unknown."""
        return _OUTCOMES.get(self._work, "not_applied")

    @property
    def _work(self) -> Outcome:
        if self._unit is not None:
            return self._unit.outcome
        return Outcome.ROLLED_BACK if self._attempts is None else self._attempts.work

    # -- Tornado's hooks, in the order of their calls

    def prepare(self) -> Awaitable[None] | None:
        """Make the session and hold the response. Subclasses call ``super().prepare()`` first.

        Not called for an unknown method, an unreadable body, or a request refused as cross-origin.
        """
        self._task = asyncio.current_task()
        if self._unit is not None or self._task is None:
            raise UsageError(
                f"{self._summary()}: prepare() is to be reached once, before anything is awaited or yielded: "
                "call `super().prepare()` first"
            )
        exchange = self._attempts = self._attempts or self._first_attempt()
        if exchange.attempt == 1 and self._comes_too_late:
            raise Unavailable("the service is shutting down", retry_after_s=5)
        self._unit = self._database.unit_of_work(
            label=f"{self.request.method} {type(self).__name__}",
            read_only=self._reads,
            snapshot=self._reads and (self.snapshot or self.streams),
            deadline_at=exchange.deadline_at,
            origin=self.request,
            retries=self._can_retry,
        )
        self._hooks = CommitHooks()
        self._early = EarlyCommit()
        connection = exchange.connection
        self._response = (
            StreamedResponse(connection) if self.streams else HeldResponse(connection, self.request.method)
        )
        self.request.connection = self._response
        self._task.add_done_callback(self._task_ended)
        if exchange.deadline_at is not None:
            left_s = exchange.deadline_at - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(left_s, self._deadline_passed)
        return _Done()  # so that it can be awaited, or not

    def _refuse(self) -> None:
        """In the place of `prepare`, where the answer is an error that another handler has come to."""
        task, refusal = asyncio.current_task(), self._attempted().refusal
        if task is not None and refusal is not None:
            task.add_done_callback(self._refusal_ended)
            raise refusal

    def _refusal_ended(self, task: asyncio.Task[Any]) -> None:
        """The task of a refusal is over; without an answer where its error page raised no `Exception`."""
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
            RuntimeError: part of a response would have left before its COMMIT.
        """
        if not include_footers and self._unit is not None and not self.streams:
            raise RuntimeError(
                f"{type(self).__name__}: flush() before the end would send part of an answer before its "
                "COMMIT. Write it all, and `finish()` sends it; for a long answer that only reads, set "
                "`streams = True`"
            )
        if self._unit is None and self._attempts is not None and not self._headers_written:
            self.set_header("Server-Timing", self._attempts.server_timing)
        return super().flush(include_footers)

    def on_connection_close(self) -> None:
        """The client has left: a read is stopped, a write runs to its end; see `cancel_on_disconnect`."""
        super().on_connection_close()
        self._client_gone = True
        cancels = self._reads if self.cancel_on_disconnect is None else self.cancel_on_disconnect
        if cancels and self._unit is not None and not self._answered:
            self._stopped = ClientDisconnected()
            self._unit.cancel(self._stopped)

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Note what was raised, since it undoes the work; log it, unless nobody is to be told of it.

        That is so where the request runs again for it, where it is answered again once the commit under way
        has ended, and where it was stopped: what a handler meets whose session was taken away is no fault of
        its own.
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
        if self._attempts is None:  # refused before `prepare`
            super()._trace_exception(error)
        elif self._attempts.traced is not None and error is not None and is_fault(error):
            self._attempts.traced.failed(error)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As Tornado's; of a handler that was stopped, the reason is what is told."""
        if self._stopped is not None:
            kwargs["exc_info"] = (type(self._stopped), self._stopped, None)
        self._fail(kwargs["exc_info"][1] if "exc_info" in kwargs else None)
        if self._response is not None and self._response.has_left:
            self.finish()  # no error can be told any more: the connection is broken off
        else:
            super().send_error(status_code, **kwargs)

    def on_finish(self) -> None:
        """Commit or roll back what was done before ``finish()``; the answer leaves when that is done.

        Runs without `prepare` where Tornado itself refused the request: then there is nothing to
        settle. Does not run for a request that ends without an answer: `_task_ended` settles that.
        """
        if self._unit is None or self._answered:
            return
        self._answered = True
        if _has_stream_request_body(type(self)):
            self.data_received = _ignore  # type: ignore[method-assign]  # the answer is held, so the body goes on
        fault = None if self._response is None else self._response.fault
        keep = not self._failed and fault is None and self.get_status() < 400
        commits = self._commits
        if not (self._hooks or commits) and self._unit.settle_at_once(keep=keep):
            self._note_conflict(fault or self._raised)
            self._conclude(fault)
        else:
            self._database.start(self._settle(keep, fault, commits))

    # -- the end of a request

    async def _settle(self, keep: bool, fault: Exception | None, commits: bool) -> None:
        if commits or self._commits:  # a commit that `on_finish` met may have ended since
            fault = await self._end_of_commit() or fault
        self._note_conflict(fault or self._raised)
        try:
            last = None if self._early.begun else self._hooks.last_work
            await self._begun().settle(keep=keep, last=last, follow_ups=self._due_follow_ups)
        except Exception as error:  # noqa: BLE001
            fault = fault or error  # whatever kept the work from being kept is what the client is told
        if self._again is not None:
            await asyncio.sleep(backoff_s(self._attempted().attempt))
        self._conclude(fault)
        if self._settled_early or (keep and fault is None):
            await self._hooks.on_commit.call(self._summary())

    async def _end_of_commit(self) -> Exception | None:
        """Wait for a `commit` whose caller is gone. Returns what is told now in place of an error answer.

        What the handler has raised meanwhile is answered again: it could not know how the commit ended.
        """
        error = await self._early.end()
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

    def _note_conflict(self, error: BaseException | None) -> None:
        told = meant(error)  # a conflict in a task of a TaskGroup is one, too
        if leaves_unknown(error):  # what was applied would be applied again
            self._again = None
        elif isinstance(told, CONFLICTS) and self._may_retry():
            self._again = told

    def _due_follow_ups(self, error: Exception | None) -> list[Callable[[Session], object]]:
        """What is to be done in units of their own, once a request: at the attempt that is answered."""
        self._note_conflict(error)
        return [] if self._again is not None else self._hooks.follow_ups

    def _conclude(self, fault: Exception | None) -> None:
        """The unit is settled: let the response leave, or have another handler give another one."""
        exchange, response = self._attempted(), self._response
        exchange.add(self._begun())
        exchange.work = Outcome.UNKNOWN if leaves_unknown(fault) else self._work
        self._forget()
        if response is None or response.has_left:
            self._close()
        elif self._again is not None:
            response.drop()
            exchange.again(self._again.reason, summary=self._summary())
        elif fault is not None:
            response.drop()
            exchange.refuse(fault)
        else:
            self._release(response, exchange)
            self._close()

    def _release(self, response: HeldResponse | StreamedResponse, exchange: RequestAttempts) -> None:
        try:
            status = response.release({"Server-Timing": exchange.server_timing})
        except Exception:  # a header that was set after finish(), and that nobody can write
            # The work is kept, so an error would be false, and how much has left is not known.
            log.exception("%s: the answer could not be sent; its connection is closed", self._summary())
            response.drop()
            exchange.connection.close()
            status = 500
        self.set_status(status)  # for the access line: the handler may have set another since

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        """The request's task is over; where that was without an answer, undo the work and give one."""
        if self._answered:
            return
        if self._response is not None and self._response.finished:
            fault: Exception = TypeError(forgotten(type(self), "on_finish"))
        else:
            fault = UsageError(f"{self._summary()}: the handler ended without an answer")
        self._fail(fault)
        self._answered = True
        self._database.start(self._settle_unanswered(fault))

    async def _settle_unanswered(self, fault: Exception) -> None:
        fault = (await self._early.end() if self._commits else None) or fault
        try:
            await self._begun().settle(keep=False, follow_ups=self._due_follow_ups)
        except Exception as error:  # noqa: BLE001  # another than the unit has ended its transaction
            fault = error
        response = self._response
        has_left = response is not None and response.has_left
        if not (self._client_gone or has_left):
            self._conclude(fault)
        else:
            if self._client_gone:  # a streamed upload that was broken off
                self.set_status(status_of(ClientDisconnected()), "Client Closed Request")
            elif response is not None:
                log.error("%s", fault)  # no client is left to be told
                response.drop()
            self._forget()
            self._close()
        if self._settled_early:
            await self._hooks.on_commit.call(self._summary())

    def _deadline_passed(self) -> None:
        """Stop the unit's statement and the handler. A COMMIT that has been sent may still be answered."""
        self._stopped = DeadlinePassed(_TOO_LATE) if self._settled_early else DeadlinePassed()
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

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # What was raised holds the frames that raised it, and with them this handler.
        self._task = self._timer = self._raised = None

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._write_access_line()

    def _log(self) -> None:
        """Tornado calls this before `on_finish`, or late; with a unit of work it waits for the outcome."""
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
        """The status is the one that the client has read."""
        if self._attempts is None:  # refused before `prepare`
            instrumentation.call("on_finish", self)
        elif self._attempts.traced is not None:
            self._attempts.traced.ended(self.get_status())
            self._attempts.traced = None

    # -- small questions

    @property
    def _reads(self) -> bool:
        if self.read_only is not None:
            return self.read_only
        return self.streams or self.request.method in ("GET", "HEAD")

    @property
    def _settled_early(self) -> bool:
        return self._unit is not None and self._early.done

    @property
    def _commits(self) -> bool:
        """Whether a `commit` is under way."""
        return self._unit is not None and self._early.under_way

    @property
    def _database(self) -> Database:
        self.require_setting("database", "sessions")
        database: Database = self.settings["database"]
        return database

    @property
    def _comes_too_late(self) -> bool:
        """Whether the service was shutting down when this request began; its body may have taken a while."""
        since: float | None = self.settings.get("refuses_requests_since")
        return since is not None and time.time() - self.request.request_time() > since

    def _first_attempt(self) -> RequestAttempts:
        timeout_s = self.timeout_s
        if timeout_s is None and not self.streams:
            timeout_s = self.settings.get("request_timeout_s", DEFAULT_TIMEOUT_S)
        exchange = RequestAttempts(self.application, self.request, timeout_s=timeout_s)
        if self._instrumentation is not None:
            exchange.traced = Traced(self._instrumentation, self)
        return exchange

    @property
    def _can_retry(self) -> bool:
        return self.retry and not (self.streams or _has_stream_request_body(type(self)))

    def _may_retry(self) -> bool:
        exchange = self._attempted()
        return (
            self._can_retry
            and exchange.refusal is None
            and not (self._commits or self._settled_early)
            and exchange.attempt < self._database.settings.attempts_max
            and (exchange.deadline_at is None or time.monotonic() < exchange.deadline_at)
        )

    def _begun(self) -> AsyncUnitOfWork:
        if self._unit is None:
            raise UsageError(f"{self._summary()}: no session was made: {forgotten(type(self), 'prepare')}")
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
    """Nothing to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


def _ignore(chunk: bytes) -> None:
    """Take the rest of a body that nobody reads any more."""
