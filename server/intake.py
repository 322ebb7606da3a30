"""A request on its way in, before it has a handler: what it may be, and how large."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from handlers.errors import Problem
from server.hosts import Hosts
from server.proxies import Proxies
from server.refusals import Head
from server.stream import ClientStream

_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)

_UNLIMITED = 2**62


class Intake(HTTPMessageDelegate):
    """Stands before the application's delegate. Lives as long as its request is being read.

    A request that is refused here raises Tornado's `HTTPInputError`: Tornado stops reading, writes its bare
    400, which `ClientStream` turns into the problem that was noted, tells the delegate, and closes.

    A handler that takes its body as it comes (``stream_request_body``) sets its own limits in `prepare`, with
    ``request.connection.set_max_body_size`` and ``set_body_timeout``; else the first is the server's.
    """

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        *,
        connection: Any,  # an HTTP1Connection: HTTPConnection lacks what is asked of it
        stream: ClientStream,
        proxies: Proxies,
        hosts: Hosts | None,
        body_max_bytes: int,
        on_request: Callable[[], None],
    ) -> None:
        self._delegate = delegate
        self._connection = connection
        self._stream = stream
        self._proxies = proxies
        self._hosts = hosts
        self._body_max_bytes = body_max_bytes
        self._on_request = on_request
        self._body_bytes = 0
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # one call less
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]
        stream.await_request()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Let the application choose a handler; refuse another Host, or a body announced as too large.

        Raises:
            HTTPInputError: refused.
        """
        self._on_request()
        start_line = _in_origin_form(cast(RequestStartLine, start_line), headers)
        self._stream.head_received(Head(start_line, headers))
        if self._proxies:
            caller = self._proxies.caller(self._stream.peer, headers)
            # HTTPServerRequest takes both from there.
            self._connection.context.remote_ip, self._connection.context.protocol = caller
        hosts = self._hosts
        if hosts is not None and headers.get("Host") not in hosts.spelled:
            self._refuse_host(hosts.refusal(start_line, headers))
        try:
            prepared = self._delegate.headers_received(start_line, headers)
        except HTTPInputError as error:
            self._stream.problem = Problem(400, f"the request is malformed: {error}")
            raise
        if prepared is not None:
            self._stream.body_has_reader()
        elif "Transfer-Encoding" in headers:
            # Tornado's own limit says nothing that could be told from a malformed chunk.
            self._connection.set_max_body_size(_UNLIMITED)
            self.data_received = self._counted  # type: ignore[method-assign]
        elif _is_above(headers.get("Content-Length", "0").partition(",")[0], self._body_max_bytes):
            self._refuse_body()  # before "100 Continue"
        return prepared

    def finish(self) -> None:
        """All of it has come: the handler runs."""
        self._stream.request_received()
        self._delegate.finish()

    def _counted(self, chunk: bytes) -> Awaitable[None] | None:
        self._body_bytes += len(chunk)
        if self._body_bytes > self._body_max_bytes:
            self._refuse_body()
        return self._delegate.data_received(chunk)

    def _refuse_host(self, problem: Problem | None) -> None:
        if problem is not None:
            self._stream.problem = problem
            raise HTTPInputError("another Host")

    def _refuse_body(self) -> None:
        self._stream.problem = Problem(413, f"a body here has at most {self._body_max_bytes} bytes")
        raise HTTPInputError("body too large")


def _is_above(length: str, limit: int) -> bool:
    """Whether a Content-Length is above a limit. One that is no number is for Tornado to refuse."""
    digits = length.lstrip("0") or "0"
    if not (digits.isascii() and digits.isdigit()):
        return False
    return len(digits) > len(str(limit)) or int(digits) > limit


def _in_origin_form(start_line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """``GET http://host/path`` as ``GET /path``; its host takes the place of the header's.

    A server has to take it: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    """
    absolute = _ABSOLUTE.fullmatch(start_line.path) if start_line.path[:1] != "/" else None
    if absolute is None:
        return start_line
    headers["Host"], path = absolute[1], absolute[2]
    return start_line._replace(path=path if path.startswith("/") else f"/{path}")
