"""One attempt at a request: from `prepare` until its response has left, or another attempt has begun."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from db import AsyncUnitOfWork, Database, Outcome
from db.errors import ClientDisconnected, Unavailable, UsageError
from db.retry import RetryPolicy
from db.written import Written
from handlers.lifecycle._tornado import has_stream_request_body
from handlers.lifecycle.attempts import RequestAttempts
from handlers.lifecycle.errors import leaves_unknown, status_of
from handlers.lifecycle.held_response import ResponseDropped
from handlers.lifecycle.instrumentation import Instrumentation, Traced
from handlers.lifecycle.overrides import forgotten
from handlers.lifecycle.request_transaction import RequestTransaction
from handlers.lifecycle.retry import policy_of
from handlers.lifecycle.write_tokens import tell_writes, writes_to_see
from handlers.request_id import request_id_of

log = logging.getLogger("onfinish.handlers")

DEFAULT_TIMEOUT_S = 30.0

_SWALLOWED_CANCEL_S = 1.0
"""How long a handler that was cancelled at its deadline may take to end before 504 is sent in its place."""


class Handler(Protocol):
    """What a transaction needs of its handler, a `SessionHandler`."""

    request: HTTPServerRequest
    application: Application

    @property
    def settings(self) -> dict[str, Any]:
        """As Tornado's."""

    @property
    def _summary(self) -> str:
        """How messages and log lines name the request."""

    streams: ClassVar[bool]
    snapshot: ClassVar[bool]
    read_only: ClassVar[bool | None]
    isolation: ClassVar[str | None]
    executor: ClassVar[Literal["threads"] | None]
    retry: ClassVar[bool]
    retry_on: ClassVar[tuple[type[Exception], ...]]
    timeout_s: float | None
    _instrumentation: ClassVar[Instrumentation | None]

    def require_setting(self, name: str, feature: str = "this feature") -> None:
        """As Tornado's."""

    def get_status(self) -> int:
        """As Tornado's."""

    def set_status(self, status_code: int, reason: str | None = None) -> None:
        """As Tornado's."""

    def set_header(self, name: str, value: Any) -> None:
        """As Tornado's."""

    def add_header(self, name: str, value: Any) -> None:
        """As Tornado's."""

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As Tornado's."""

    def _log_raised(self, error: BaseException) -> None:
        """Log an error, whatever answers the request."""

    def _write_access_line(self) -> None:
        """Write the access line, and end the trace."""


def first_attempt(handler: Handler) -> RequestAttempts:
    """The attempts at a request that begins; its deadline is the handler's own, or the application's."""
    timeout_s = handler.timeout_s
    if timeout_s is None and not handler.streams:
        timeout_s = handler.settings.get("request_timeout_s", DEFAULT_TIMEOUT_S)
    attempts = RequestAttempts(handler.application, handler.request, timeout_s=timeout_s)
    if handler._instrumentation is not None:
        attempts.traced = Traced(handler._instrumentation, handler)
    return attempts


class HttpTransaction(RequestTransaction):
    """One attempt at a request. Lives until its response has left, or another handler takes the request over.

    Makes the unit of work. Watches the task of the request and its deadline: a task that ends without a
    response is answered with 500, one that outlives its deadline with 504.

    Raises:
        Unavailable: the service was shutting down when the request began.
    """

    def __init__(self, handler: Handler, attempts: RequestAttempts) -> None:
        if attempts.attempt == 1 and _comes_too_late(handler):
            raise Unavailable("the service is shutting down", retry_after_s=5)
        handler.require_setting("database", "sessions")
        database: Database = handler.settings["database"]
        self.reads = (
            handler.streams or handler.request.method in ("GET", "HEAD")
            if handler.read_only is None
            else handler.read_only
        )
        may_retry = handler.retry and not (handler.streams or has_stream_request_body(type(handler)))
        self.attempts = attempts
        self._may_retry = may_retry
        self._handler = handler
        after: Sequence[Written] = ()
        if self.reads and database.write_tokens is not None:
            after = writes_to_see(handler.request, handler.settings, database.write_tokens)
        unit = self.new_unit(database, isolation=handler.isolation, read_after=after)
        super().__init__(database, unit, attempt=attempts.attempt, may_retry=may_retry)
        self.client_gone = False
        self._streams = handler.streams
        self._retry_on = handler.retry_on
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.current_task()
        if self._task is not None:
            self._task.add_done_callback(self._task_ended)
        if attempts.deadline_at is not None:
            left_s = attempts.deadline_at - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(left_s, self.deadline_passed)

    def new_unit(
        self, database: Database, *, isolation: str | None = None, read_after: Sequence[Written] = ()
    ) -> AsyncUnitOfWork:
        """A unit of work of the request's kind: read-only as it is, with its deadline."""
        handler = self._handler
        return database.unit_of_work(
            label=f"{handler.request.method} {type(handler).__name__}",
            read_only=self.reads,
            snapshot=self.reads and (handler.snapshot or handler.streams),
            isolation=isolation,
            deadline_at=self.attempts.deadline_at,
            origin=handler.request,
            retries=self._may_retry,
            executor=handler.executor,
            read_after=read_after,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The application's."""
        return self.attempts.application.settings

    @property
    def summary(self) -> str:
        """How messages and log lines name it."""
        return f"{self.unit.label} [{request_id_of(self.attempts.request)}]"

    @property
    def policy(self) -> RetryPolicy:
        """The database's, with the errors that the application and the handler add."""
        return policy_of(self.database.retry_policy, self.settings, self._retry_on)

    @property
    def status(self) -> int:
        """The status of the answer, as it is now."""
        return self._handler.get_status()

    def log_raised(self, error: BaseException) -> None:
        """Log an error that was raised by the handler and is not the one that is answered."""
        self._handler._log_raised(error)

    def fail(self, error: BaseException | None) -> None:
        """As `RequestTransaction.fail`; a response that is streamed is broken off."""
        if not self.decided:
            super().fail(error)
            self.attempts.response.fail()

    def is_to_be_logged(self, error: BaseException | None) -> bool:
        """Record what the handler has raised. Returns whether it is to be logged.

        It is not where the request is retried for it, where it is answered again when the commit under way
        has ended, or where the request was stopped.
        """
        self.fail(error)
        return (
            self.stopped is None
            and not isinstance(error, ResponseDropped)
            and not self.explicit.under_way
            and not self.retries(error)
        )

    def check_flush(self) -> None:
        """Raise `RuntimeError` where part of a response would be sent before its COMMIT."""
        if not self._streams:
            raise RuntimeError(
                f"{self.unit.label}: flush() before the end would send part of a response before its COMMIT. "
                "Write it all, and `finish()` sends it; for a long response that only reads, set "
                "`streams = True`"
            )
        attempts = self.attempts
        if self.unit.lost_write and not attempts.response.has_left:
            attempts.lost_write = True
            tell_writes(attempts, self._handler.set_header, self._handler.add_header)

    def client_left(self, cancels: bool | None) -> None:
        """The client has disconnected.

        Args:
            cancels: the request is cancelled; None: where it reads.
        """
        self.client_gone = True
        if (self.reads if cancels is None else cancels) and not self.decided:
            self.cancel(ClientDisconnected())

    def commit_or_roll_back(self) -> None:
        """The handler has finished: commit if nothing has failed and the status is below 400, else roll back.

        The response leaves when that is done, and an error in its place where it fails.
        """
        if self.decided:
            return
        self.decided = True
        if has_stream_request_body(type(self._handler)):  # the body continues, and the response is held
            self._handler.data_received = _ignore  # type: ignore[attr-defined]
        fault = self.attempts.response.fault
        keep = not self.failed and fault is None and self.status < 400
        if fault is None and self.settle_at_once(keep=keep):
            self._respond(None)
        else:
            self.database.start(self._end(keep, fault, self.explicit.is_awaited))

    async def _end(self, keep: bool, fault: Exception | None, commits: bool) -> None:
        fault = await self.settle(keep=keep, fault=fault, commits=commits)
        if self.conflict is not None:
            await self.pause()
        self._respond(fault)
        if self.explicit.done or (keep and fault is None):
            await self.call_on_commit()

    def _respond(self, fault: Exception | None) -> None:
        """The unit is settled: send the response, or have another handler produce another one."""
        attempts, response = self.attempts, self.attempts.response
        attempts.add(*self.units)
        if self.database.write_tokens is not None:
            attempts.written, attempts.lost_write = self.unit.written, self.unit.lost_write
        attempts.work = Outcome.UNKNOWN if leaves_unknown(fault) else self.outcome
        handler = self._clear()
        if response.has_left:
            handler._write_access_line()
        elif self.conflict is not None:
            response.drop()
            attempts.retry(self.conflict, summary=self.summary)
        elif fault is not None:
            response.drop()
            attempts.answer_with_error(fault)
        else:
            handler.set_status(attempts.release(self.summary))  # it may have set another since
            handler._write_access_line()

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        """The request's task has ended; if that was without a response, roll back and send one."""
        if self.decided:
            return
        if self.attempts.response.finished:
            fault: Exception = TypeError(forgotten(type(self._handler), "on_finish"))
        else:
            fault = UsageError(f"{self.summary}: the handler ended without a response")
        self.fail(fault)
        self.decided = True
        self.database.start(self._end_unanswered(fault, self.explicit.is_awaited))

    async def _end_unanswered(self, fault: Exception, commits: bool) -> None:
        if commits or self.explicit.is_awaited:
            fault = await self.explicit.end() or fault
        try:
            await self._settle_units(keep=False, follow_ups=self._due_follow_ups)
        except Exception as error:  # noqa: BLE001  # another than the unit has ended its transaction
            fault = error
        response = self.attempts.response
        if not (self.client_gone or response.has_left):
            self._respond(fault)
        else:
            self.attempts.add(*self.units)
            handler = self._clear()
            if self.client_gone:  # an aborted streamed upload
                handler.set_status(status_of(ClientDisconnected()), "Client Closed Request")
            else:
                log.error("%s", fault)  # there is no client left to send it to
                response.drop()
            handler._write_access_line()
        if self.explicit.done:
            await self.call_on_commit()

    def deadline_passed(self) -> None:
        """Cancel the unit's statement and the handler. A COMMIT that has been sent may still complete."""
        super().deadline_passed()
        if not self.decided and self._task is not None:
            self._task.cancel()
            self._timer = asyncio.get_running_loop().call_later(
                _SWALLOWED_CANCEL_S, self._answer_in_its_place
            )

    def _answer_in_its_place(self) -> None:
        if not self.decided:
            self._handler.send_error(504)

    def _clear(self) -> Handler:
        """Drop what references the handler, which references this in turn. Returns the handler."""
        if self._timer is not None:
            self._timer.cancel()
        # An exception references the frames that raised it.
        self._task = self._timer = self.raised = None
        handler = self._handler
        del self._handler
        return handler


class Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


DONE = Done()


def check_is_first(handler: Handler, transaction: HttpTransaction | None) -> None:
    """Raise `UsageError` where `prepare` was reached before, or in no task, after something was awaited."""
    if transaction is not None or asyncio.current_task() is None:
        raise UsageError(
            f"{handler._summary}: prepare() is to be reached once, before anything is awaited or yielded: "
            "call `super().prepare()` first"
        )


def _comes_too_late(handler: Handler) -> bool:
    """Whether the service was shutting down when this request began; its body may have come later."""
    since: float | None = handler.settings.get("refuses_requests_since")
    return since is not None and time.time() - handler.request.request_time() > since


def _ignore(chunk: bytes) -> None:
    """Discard the rest of a body."""
