"""A handler that answers in JSON, and errors as problem+json."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

from pydantic_core import to_json
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler

from conf.redaction import redacted
from handlers.json_api.cors import cors_headers, preflight_headers
from handlers.json_api.debug import debug_of
from handlers.json_api.errors import ProblemBody, body_of, log_fault, log_refusal
from handlers.json_api.security_headers import security_headers
from handlers.lifecycle._tornado import begin_with, leave_body_unread, lines_of
from handlers.lifecycle.errors import Problem, is_fault, leaves_unknown, meant, problem_of, status_of
from handlers.lifecycle.instrumentation import InstrumentedHandler, report_to_trackers
from handlers.request_id import HEADER, request_id_of

MIB = 1024 * 1024

_default_headers: dict[str, tuple[int, dict[str, list[str]]]] = {}
"""By protocol: the second in which they were made, and the headers of an answer that has begun."""

BODILESS = (204, 304)
"""Statuses without a body, besides those below 200."""


class Page(NamedTuple):
    """A page of HTML, and its ``Content-Security-Policy``."""

    body: bytes
    policy: str


ErrorPage = Callable[[HTTPServerRequest, ProblemBody], Page | None]
"""Makes the page of an error out of the problem; None where the client is to be sent the problem itself."""


class ProblemHandler(InstrumentedHandler):
    """The base of every handler: answers JSON, and errors as problems. Lives as long as one request.

    The application's settings: ``cors_origins``, whose pages may read the answers (none), and
    ``cors_headers``, which these may send besides those of the contract (none); ``trusted_origins`` and
    ``serve_traceback`` as Tornado has them; ``forms`` (True), False where no body is a form: Tornado reads
    those before any handler, and refuses a GET too for a malformed one, which no handler needs;
    ``database_messages`` (False), True where a fault is logged with the database's own message, and answered
    with `debug`; ``error_page`` (None), an `ErrorPage` for clients that prefer one to a problem.
    """

    body_max_bytes: ClassVar[int | None] = MIB
    """The largest body that the server takes for it; a larger one is 413 before any of it is read. Never more
    than the server's own ``http.body_max_bytes``, which None stands for."""

    large_bodies_at_once: ClassVar[int | None] = None
    """How many requests with a body above 64 KiB run at once in a process; others wait, or are 503."""

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        if not application.settings.get("forms", True):
            leave_body_unread(request)
        super().__init__(application, request, **kwargs)

    @property
    def outcome(self) -> str:
        """What has become of the request's work: ``not_applied``, ``applied`` or ``unknown``."""
        return "not_applied"

    @property
    def request_id(self) -> str:
        """The id that the answer, the log and the problem carry."""
        return request_id_of(self.request)

    def clear(self) -> None:
        """As Tornado's. The headers that every answer carries are made once a second, and copied."""
        if type(self).set_default_headers is not ProblemHandler.set_default_headers or self._cors_origins:
            super().clear()
            return
        protocol, second = self.request.protocol, int(time.time())
        made_in, lines = _default_headers.get(protocol, (0, {}))
        if made_in == second:
            begin_with(self, lines)
        else:
            super().clear()
            _default_headers[protocol] = second, lines_of(self)

    def set_default_headers(self) -> None:
        """What every answer carries, errors too. An override calls ``super()``."""
        self.clear_header("Server")
        for name, value in security_headers(self.request.protocol).items():
            self.set_header(name, value)
        for name, value in cors_headers(self.request.headers.get("Origin"), self._cors_origins).items():
            self.set_header(name, value)

    def check_trusted_origin(self, origin: str) -> bool:
        """Whether a page of another origin may write here. Tornado calls it where that is protected.

        Raises:
            Problem: 403, since Tornado's own has no detail for the client.
        """
        if super().check_trusted_origin(origin):
            return True
        raise Problem(403, "pages of another origin may not write here")

    def options(self, *args: str, **kwargs: str) -> Any:
        """The methods of this path; to a page of another origin, what it may send."""
        methods = self._allowed()
        self.set_status(204)
        self.set_header("Allow", ", ".join(methods))
        asked, accepted = self.request.headers, self.settings.get("cors_headers", ())
        for name, value in preflight_headers(asked, self._cors_origins, methods, accepted).items():
            self.set_header(name, value)

    def compute_etag(self) -> str | None:
        """No tag, except where a handler sets one: other answers may not be stored, and hashes cost."""
        return None

    def head(self, *args: str, **kwargs: str) -> Any:
        """HEAD is answered wherever GET is; Tornado leaves out the body."""
        return self.get(*args, **kwargs)

    def write_json(self, value: object, status: int = 200) -> None:
        """Answer with JSON. The last thing a method does.

        Args:
            value: what JSON has, and what pydantic makes of it: dates, UUIDs, models. NaN is null.
            status: of the answer.
        """
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(to_json(value, inf_nan_mode="null"))

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As Tornado's, with the status that the one table has for the error."""
        if "exc_info" in kwargs:
            status_code = status_of(kwargs["exc_info"][1], status_code)
        super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with a problem. An override for another form of errors should include `outcome` too.

        A status that has no body, such as 204, is answered without one, as Tornado does: that it was raised
        rolls the work back all the same. With the application's setting ``serve_traceback``, the problem of
        a 5xx has the traceback of the exception.
        """
        if status_code in BODILESS or status_code < 200:
            self.finish()
            return
        error = meant(kwargs["exc_info"][1]) if "exc_info" in kwargs else None
        problem = problem_of(error, status_code)
        problem.status_code = status_code
        if status_code == 405:
            allowed = ", ".join(self._allowed())
            problem = Problem(405, f"this path takes {allowed}", headers={"Allow": allowed})
        for name, value in problem.headers.items():
            self.set_header(name, value)
        outcome = "unknown" if leaves_unknown(error) else self.outcome
        body = self._body_of(problem, error, outcome)
        error_page = self.settings.get("error_page")
        page = None if error_page is None else error_page(self.request, body)
        if page is None:
            self.set_header("Content-Type", "application/problem+json")
            self.finish(to_json(body))
        else:
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.set_header("Content-Security-Policy", page.policy)
            self.finish(page.body)

    def _body_of(self, problem: Problem, error: BaseException | None, outcome: str) -> ProblemBody:
        body = body_of(problem, instance=self.request.path, request_id=self.request_id, outcome=outcome)
        shows_all = self.settings.get("database_messages")
        if error is not None and problem.status_code >= 500 and self.settings.get("serve_traceback"):
            shown = error if shows_all else redacted(error)
            body["traceback"] = "".join(traceback.format_exception(shown))
        if error is not None and shows_all and is_fault(error):
            return {**body, "debug": debug_of(error)}  # type: ignore[typeddict-unknown-key]  # FaultBody
        return body

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Log the exception: a fault of the program with its stack, a refusal by a line or not at all.

        Faults are passed to Tornado's own method too, which error trackers wrap, and to tracers.
        """
        request = self.request
        summary = f"{request.method} {request.uri} ({request.remote_ip}) [{self.request_id}]"
        fault = self._log_error(summary, value)
        if fault is not None or isinstance(value, HTTPError):
            self._trace_exception(fault or value)

    def _log_error(self, summary: str, error: BaseException | None) -> BaseException | None:
        """Log an error. Returns it as it was logged, where it is a fault."""
        error = meant(error)
        if error is None or not is_fault(error):
            log_refusal(summary, error)
            return None
        fault = error if self.settings.get("database_messages") else redacted(error)
        report_to_trackers(self, fault)
        log_fault(summary, fault)
        return fault

    def flush(self, include_footers: bool = False) -> Any:
        """As Tornado's; adds the headers that every answer carries."""
        self.set_header(HEADER, self.request_id)  # without effect where they were sent before
        return super().flush(include_footers)

    @property
    def _cors_origins(self) -> Collection[str]:
        origins: Collection[str] = self.settings.get("cors_origins", ())
        return origins

    def _allowed(self) -> list[str]:
        unimplemented = RequestHandler.get  # Tornado's placeholder, the same for every method
        methods = [
            method
            for method in self.SUPPORTED_METHODS
            if method != "HEAD" and getattr(type(self), method.lower()) is not unimplemented
        ]
        return sorted([*methods, "HEAD"] if "GET" in methods else methods)


class NotFoundHandler(ProblemHandler):
    """Answers every path that no other handler has."""

    def prepare(self) -> None:
        """Refuse, whatever the method."""
        self.send_error(404)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """404, also where Tornado refuses before `prepare`: a path that is not there has no methods."""
        super().send_error(404)
