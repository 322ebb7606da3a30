"""One request and its response, over all attempts at it."""

from __future__ import annotations

import logging
import time
from typing import Any

from tornado.httputil import (
    HTTPHeaders,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from db import AsyncUnitOfWork, Database, Outcome
from handlers.lifecycle.instrumentation import Traced
from handlers.request_id import request_id_of

log = logging.getLogger("onfinish.handlers")


class RequestAttempts:
    """What all attempts at a request share. Lives until its response has been sent.

    A second attempt is a request object and a handler of its own, routed like the first: on the same
    objects, arguments and files would be parsed twice.
    """

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
        self._db_s = 0.0
        self._commit_s = 0.0

    def add(self, unit: AsyncUnitOfWork) -> None:
        """Count a unit of work that is settled."""
        self._db_s += unit.db_s
        self._commit_s += unit.commit_s

    @property
    def server_timing(self) -> str:
        """The header ``Server-Timing``: the time in the database, and in COMMIT alone, in milliseconds."""
        return f"db;dur={self._db_s * 1000:.1f}, commit;dur={self._commit_s * 1000:.1f}"

    def retry(self, reason: str, *, summary: str) -> None:
        """Dispatch the request once more."""
        self.attempt += 1
        log.info("%s: retrying (%s), attempt %d", summary, reason, self.attempt)
        database: Database = self.application.settings["database"]
        database.observer.retries(reason)
        self._dispatch()

    def answer_with_error(self, error: Exception) -> None:
        """Have a fresh handler of the same class write the error response, in place of its `prepare`."""
        self.error = error
        self._dispatch()

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
