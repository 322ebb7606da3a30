"""Private names of Tornado that the handlers rely on, each with its reason. A test fails when one goes."""

from __future__ import annotations

from collections.abc import Mapping

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import RequestHandler, _has_stream_request_body

STREAMS_BODY = "_stream_request_body"
"""What the decorator `stream_request_body` sets on a class; a metaclass that refuses it looks for that."""


def has_stream_request_body(handler: type) -> bool:
    """Whether a class of handlers reads its body as it comes. There is no public way to ask."""
    return _has_stream_request_body(handler)


def leave_body_unread(request: HTTPServerRequest) -> None:
    """Have Tornado not read a body as a form, which it does before any handler runs. There is no setting."""
    request._parse_body = _nothing  # type: ignore[method-assign]


def lines_of(handler: RequestHandler) -> dict[str, list[str]]:
    """The headers of an answer as they are now, a list of lines for each name; for `begin_with`."""
    return {name: list(lines) for name, lines in handler._headers._as_list.items()}


def begin_with(handler: RequestHandler, lines: Mapping[str, list[str]]) -> None:
    """As Tornado's `clear`, with headers that have been checked before: each that is set is checked anew."""
    handler._headers = headers = HTTPHeaders()
    headers._as_list.update((name, line.copy()) for name, line in lines.items())
    handler._write_buffer = []
    handler._status_code, handler._reason = 200, "OK"


class AccessLine(RequestHandler):
    """Tornado's handler, with its access line within reach. Lives as long as one request.

    Tornado writes the line in ``finish()``, by `_log`, before the response has left, and before `on_finish`.
    The public ``log_function`` is called from there, and cannot say when.
    """

    def _log(self) -> None:
        self.access_line_is_due()

    def access_line_is_due(self) -> None:
        """The response is complete: write its access line. An override may write it later."""
        self.log_answer()

    def log_answer(self) -> None:
        """Write the access line, by the application's ``log_function``."""
        super()._log()


def _nothing() -> None:
    """In place of Tornado's reader of forms."""
