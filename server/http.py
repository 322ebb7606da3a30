"""An HTTP server that knows which of its connections are busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)


class DrainingServer(HTTPServer):
    """As Tornado's, and can wait for the requests in flight. Lives as long as its process.

    Tornado's ``close_all_connections`` cuts a request that is being answered: its client saw a reset, and its
    row was committed. A connection is busy from a request's headers until the next request is waited for,
    which Tornado does when the answer has been written to the socket.
    """

    def initialize(self, *args: object, **kwargs: object) -> None:
        """Tornado's constructor."""
        super().initialize(*args, **kwargs)  # type: ignore[arg-type]
        self._busy: set[object] = set()

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return len(self._busy)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection waits for its next request."""
        self._busy.discard(server_conn)
        return _Noticing(super().start_request(server_conn, request_conn), self._busy, server_conn)

    def on_close(self, server_conn: object) -> None:
        """A connection is gone."""
        self._busy.discard(server_conn)
        super().on_close(server_conn)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no connection is busy. Returns whether that came to be."""
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while self._busy and asyncio.get_running_loop().time() < give_up_at:
            await asyncio.sleep(0.02)
        return not self._busy


class _Noticing(HTTPMessageDelegate):
    """Marks a connection busy when a request's headers have come. Lives as long as that request's reading."""

    def __init__(self, delegate: HTTPMessageDelegate, busy: set[object], connection: object) -> None:
        self._delegate = delegate
        self._busy = busy
        self._connection = connection
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # no call more for each piece
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._busy.add(self._connection)
        return self._delegate.headers_received(start_line, headers)
