"""One request and its response, over all attempts at it."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any, Protocol

from tornado.httputil import (
    HTTPHeaders,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from db import AsyncUnitOfWork, Database, Outcome
from db.retry import reason_of
from db.written import Written
from handlers.lifecycle.held_response import HeldResponse, StreamedResponse
from handlers.lifecycle.instrumentation import Traced
from handlers.lifecycle.outcome import HEADER as OUTCOME, told
from handlers.lifecycle.write_tokens import tell_writes
from handlers.request_id import HEADER as REQUEST_ID, request_id_of

log = logging.getLogger("onfinish.handlers")


class TakenOver(Protocol):
    """A handler that takes a request over from another one."""

    @property
    def _summary(self) -> str:
        """How messages and log lines name the request."""

    def prepare(self) -> Any:
        """As Tornado's."""

    def set_status(self, status_code: int, reason: str | None = None) -> None:
        """As Tornado's."""

    def _write_access_line(self) -> None:
        """Write the access line, and end the trace."""


class RequestAttempts:
    """What all attempts at a request share. Lives until its response has been sent.

    A second attempt is a request object and a handler of its own, routed like the first: on the same
    objects, arguments and files would be parsed twice.
    """

    response: HeldResponse | StreamedResponse
    """The response of the attempt under way; made by `hold`."""

    def __init__(
        self, application: Application, request: HTTPServerRequest, *, timeout_s: float | None
    ) -> None:
        self.application = application
        self.request = request
        self.connection: Any = request.connection  # HTTPConnection lacks what HTTP1Connection has
        self.attempt = 1
        self.error: Exception | None = None
        self.work = Outcome.ROLLED_BACK
        """What has become of the work of the attempt before; before the first there is none."""
        self.traced: Traced | None = None
        self.began_at = time.monotonic()
        self.deadline_at = None if timeout_s is None else self.began_at + timeout_s
        self.error_headers: dict[str, str] = {}
        """What the error that is answered asks for, such as Retry-After."""
        self.written: Written | None = None
        """What its work has committed at the application's database, where tokens are on."""
        self.lost_write = False
        """Whether it was to see a write that is lost."""
        self.statements = 0
        """How many statements the units of work that are settled have sent."""
        self._db_s = 0.0
        self._commit_s = 0.0

    def add(self, *units: AsyncUnitOfWork) -> None:
        """Count units of work that are settled."""
        for unit in units:
            self._db_s += unit.db_s
            self._commit_s += unit.commit_s
            self.statements += unit.statements

    def hold(self, request: HTTPServerRequest, *, streams: bool = False) -> None:
        """Hold the response of the attempt that begins, or have it sent as it is written."""
        if streams:
            self.response = StreamedResponse(self.connection, {REQUEST_ID: request_id_of(request)})
        else:
            self.response = HeldResponse(self.connection, request.method)
        request.connection = self.response

    def release(self, summary: str) -> int:
        """Send the response. Returns its status."""
        response = self.response
        try:
            return response.release(self._last_headers(response))
        except Exception:  # a header that was set after finish(), and that cannot be written
            # The work is settled, so an error might be false, and how much was sent is not known.
            log.exception("%s: the response could not be sent; its connection is closed", summary)
            response.drop()
            self.connection.close()
            return 500

    def _last_headers(self, response: HeldResponse | StreamedResponse) -> dict[str, str]:
        """The headers that are known only now, or that Tornado's `send_error` has cleared."""
        db_ms, commit_ms = self._db_s * 1000, self._commit_s * 1000
        sent = self.statements if self.application.settings.get("server_timing_counts") else None
        count = "" if sent is None else f';desc="{sent} statement{"" if sent == 1 else "s"}"'
        headers = {"Server-Timing": f"db;dur={db_ms:.1f}{count}, commit;dur={commit_ms:.1f}"}
        if response.headers is not None and REQUEST_ID not in response.headers:
            headers[REQUEST_ID] = request_id_of(self.request)
        if (self.written is not None or self.lost_write) and response.headers is not None:
            tell_writes(self, response.headers.__setitem__, response.headers.add)
        if response.status >= 400:
            headers.update(self.error_headers)
            if not response.is_problem:
                headers[OUTCOME] = told(self.work)
        return headers

    def retry(self, error: BaseException, *, summary: str) -> None:
        """Dispatch the request once more."""
        self.attempt += 1
        reason = reason_of(error)
        log.info("%s: retrying (%s), attempt %d", summary, reason, self.attempt)
        database: Database = self.application.settings["database"]
        database.observer.retries(reason)
        self.error_headers = {}
        self._dispatch()

    def answer_with_error(self, error: Exception) -> None:
        """Have a fresh handler of the same class write the error response, in place of its `prepare`."""
        self.error = error
        self._dispatch()

    def take_over(self, handler: TakenOver, request: HTTPServerRequest) -> None:
        """Hold the response of a further handler, which may end before its `prepare` has made a session.

        One that is to answer an error raises that in place of its `prepare`. A subclass's may count,
        authenticate, or consume a nonce: it has already run.
        """
        self.hold(request)
        if self.error is not None:
            handler.prepare = functools.partial(self._raise_error, handler)  # type: ignore[method-assign]

    def _raise_error(self, handler: TakenOver) -> None:
        del handler.__dict__["prepare"]  # it references its handler
        task, error = asyncio.current_task(), self.error
        if task is not None and error is not None:
            task.add_done_callback(lambda _: self._error_ended(handler))
            raise error

    def _error_ended(self, handler: TakenOver) -> None:
        """The task that answers an error has ended; without a response if its page raised no `Exception`."""
        if self.response.finished:  # perhaps its class overrides `on_finish` and does not call ``super()``
            self.send(handler)
        else:
            self.answer_without_handler()
            handler.set_status(500)
            handler._write_access_line()

    def send(self, handler: TakenOver) -> None:
        """Send the response that a handler without a session has written, once."""
        if not self.response.has_left:
            handler.set_status(self.release(handler._summary))
            handler._write_access_line()

    def _dispatch(self) -> None:
        first = self.request
        start_line = RequestStartLine(first.method or "", first.uri or "", first.version)
        request = AttemptedRequest(self, start_line, first.headers.copy())
        try:
            delegate = self.application.find_handler(request)
            delegate.headers_received(start_line, request.headers)
            if not delegate.stream_request_body:  # else it has answered: only errors are dispatched to it
                if first.body:
                    delegate.data_received(first.body)
                delegate.finish()
        except Exception:
            log.exception("no handler could be made to answer %s %s", first.method, first.path)
            self.answer_without_handler()

    def answer_without_handler(self) -> None:
        """Answer 500 without a body, where no handler can."""
        headers = HTTPHeaders({"Content-Length": "0", "X-Request-Id": request_id_of(self.request)})
        self.connection.write_headers(ResponseStartLine("", 500, "Internal Server Error"), headers)
        self.connection.finish()


class AttemptedRequest(HTTPServerRequest):
    """A request that is retried, or answered with an error. Lives as long as that attempt."""

    def __init__(self, attempts: RequestAttempts, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        first = attempts.request
        super().__init__(
            start_line=start_line,
            headers=headers,
            connection=attempts.connection,
            server_connection=first.server_connection,
        )
        self.attempts = attempts
        self.request_id = request_id_of(first)
        # Tornado resets what a proxy's headers set on the connection once the first attempt has been routed.
        self.remote_ip = first.remote_ip
        self.protocol = first.protocol

    def request_time(self) -> float:
        """Seconds since the first attempt began."""
        return time.monotonic() - self.attempts.began_at


def attempts_of(request: HTTPServerRequest) -> RequestAttempts | None:
    """The attempts that a request is a further one of; None for a first attempt."""
    return request.attempts if isinstance(request, AttemptedRequest) else None
