"""The checks of a request before it has a handler: its host, and the size of its body."""

from __future__ import annotations

import asyncio
import logging
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

from db.errors import PoolTimeout
from handlers.lifecycle.errors import Problem, problem_of, title_of
from server.edge.bodies import LARGE_BYTES, Bodies
from server.edge.early_errors import Caller, Head, error_answer
from server.edge.hosts import Hosts
from server.edge.proxies import Proxies
from server.edge.stream import ClientStream

log = logging.getLogger("onfinish.server")

_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)

_UNLIMITED = 2**62


class RequestLimits(HTTPMessageDelegate):
    """Wraps the application's delegate. Lives as long as its request is being read.

    A rejected request raises Tornado's `HTTPInputError`: Tornado stops reading, writes its bare 400, which
    `ClientStream` replaces by the recorded problem, notifies the delegate, and closes.

    A handler that reads its body in chunks (``stream_request_body``) sets its own limits in `prepare`, with
    ``request.connection.set_max_body_size`` and ``set_body_timeout``; by default the size limit is the
    server's. For any other handler its ``body_max_bytes`` and ``large_bodies_at_once`` are in force, see
    `ProblemHandler`.

    Args:
        key: identifies the connection to its server.
        bodies: those of all connections of the server.
    """

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        *,
        connection: Any,  # an HTTP1Connection: HTTPConnection lacks some of its methods
        key: object,
        stream: ClientStream,
        proxies: Proxies,
        hosts: Hosts | None,
        body_max_bytes: int,
        bodies: Bodies,
        on_request: Callable[[], None],
    ) -> None:
        self._delegate = delegate
        self._connection = connection
        self._key = key
        self._stream = stream
        self._proxies = proxies
        self._hosts = hosts
        self._body_max_bytes = body_max_bytes
        self._bodies = bodies
        self._on_request = on_request
        self._body_bytes = 0
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # one call less
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]
        stream.await_request()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Let the application choose a handler; reject another Host, or a body announced as too large.

        Raises:
            HTTPInputError: rejected.
        """
        self._on_request()
        start_line = _in_origin_form(cast(RequestStartLine, start_line), headers)
        self._stream.head_received(Head(start_line, headers))
        if self._proxies:
            caller = self._proxies.caller(self._stream.peer, headers)
            # HTTPServerRequest reads both from there.
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
            # Tornado's own limit raises the same error as a malformed chunk.
            self._connection.set_max_body_size(_UNLIMITED)
            self._set_limit()
            del self.data_received
        elif "Content-Length" in headers:
            length = headers["Content-Length"].partition(",")[0]
            self._set_limit()
            if _is_above(length, self._body_max_bytes):
                self._refuse_body()  # before "100 Continue"
            if _is_above(length, LARGE_BYTES):
                del self.data_received
        return prepared

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Count a part of a large body; parts of a small one go straight to the delegate.

        Raises:
            HTTPInputError: rejected.
        """
        self._body_bytes += len(chunk)
        if self._body_bytes > self._body_max_bytes:
            self._refuse_body()
        if not self._bodies.hold(self._key, len(chunk)):
            self._stream.problem = problem_of(
                PoolTimeout("the bodies of other requests take all the room"), 503
            )
            raise HTTPInputError("no room for the body")
        return self._delegate.data_received(chunk)

    def _refuse_host(self, problem: Problem | None) -> None:
        if problem is not None:
            self._stream.problem = problem
            raise HTTPInputError("another Host")

    def finish(self) -> None:
        """The request is complete: the handler runs, or waits for its turn."""
        self._stream.request_received()
        handler = self._handler
        if getattr(handler, "refused_early", False):
            routed = cast(Any, self._delegate).delegate
            has_begun = routed.stream_request_body  # its handler's `run` raises what this would have
            if not has_begun and (error := handler.refusal(routed.application, routed.request.method)):
                self._refuse(problem_of(error, 503), routed)
                return
        if self._body_bytes > LARGE_BYTES:
            at_once = getattr(handler, "large_bodies_at_once", None)
            if at_once is not None:
                self._waiting = asyncio.ensure_future(self._finish_in_turn(at_once))
                return
        self._delegate.finish()

    def _refuse(self, problem: Problem, routed: Any) -> None:
        """Answer with an error in place of a handler; the connection serves the next request."""
        request = routed.request
        caller = Caller(request.remote_ip, request.protocol)
        headers, body = error_answer(problem, self._stream.head, caller, routed.application.settings)
        start_line = ResponseStartLine("", problem.status_code, title_of(problem.status_code))
        self._connection.write_headers(start_line, HTTPHeaders(headers), body)
        self._connection.finish()

    async def _finish_in_turn(self, at_once: int) -> None:
        try:
            await self._bodies.turn(self._key, self._handler, at_once)
        except PoolTimeout as error:
            self._stream.refuse(problem_of(error, 503))
            return
        if self._stream.closed():  # during the wait: its `on_close` came before there was a slot to release
            self._bodies.release(self._key)
            return
        try:
            self._delegate.finish()
        except Exception:
            log.exception("a handler could not be created; its connection is closed")
            self._stream.close()

    @property
    def _handler(self) -> Any:
        """The handler's class, from Tornado's delegates; None before the headers have arrived."""
        return getattr(getattr(self._delegate, "delegate", None), "handler_class", None)

    def _set_limit(self) -> None:
        own: int | None = getattr(self._handler, "body_max_bytes", None)
        if own is not None and own < self._body_max_bytes:
            self._body_max_bytes = own

    def _refuse_body(self) -> None:
        self._stream.problem = Problem(413, f"a body here has at most {self._body_max_bytes} bytes")
        raise HTTPInputError("body too large")


def _is_above(length: str, limit: int) -> bool:
    """Whether a Content-Length is above a limit. Tornado rejects one that is no number."""
    digits = length.lstrip("0") or "0"
    if not (digits.isascii() and digits.isdigit()):
        return False
    return len(digits) > len(str(limit)) or int(digits) > limit


def _in_origin_form(start_line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """``GET http://host/path`` as ``GET /path``; its host replaces the header's.

    A server has to accept it: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    """
    absolute = _ABSOLUTE.fullmatch(start_line.path) if start_line.path[:1] != "/" else None
    if absolute is None:
        return start_line
    headers["Host"], path = absolute[1], absolute[2]
    return start_line._replace(path=path if path.startswith("/") else f"/{path}")
