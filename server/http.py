"""An HTTP server that knows which of its connections are busy."""

from __future__ import annotations

import asyncio
import contextlib
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
        self._idle = asyncio.Event()

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return len(self._busy)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection waits for its next request."""
        self._is_idle(server_conn)
        return _Noticing(super().start_request(server_conn, request_conn), self, server_conn)

    def on_close(self, server_conn: object) -> None:
        """A connection is gone."""
        self._is_idle(server_conn)
        super().on_close(server_conn)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no connection is busy. Returns whether that came to be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._busy:  # asked again: the next request may have come before this task had its turn
                    await self._idle.wait()
        return not self._busy

    def end_keep_alive(self) -> None:
        """From now on a connection's next answer is its last, and says so: ``Connection: close``.

        Else clients that never pause would keep the server busy for ever. These parameters are one object
        that all connections share, and that is asked at each request.
        """
        self.conn_params.no_keep_alive = True

    def is_busy(self, connection: object) -> None:
        """A request's headers have come."""
        self._busy.add(connection)
        self._idle.clear()

    def _is_idle(self, connection: object) -> None:
        self._busy.discard(connection)
        if not self._busy:
            self._idle.set()


class _Noticing(HTTPMessageDelegate):
    """Tells the server when a request's headers have come. Lives as long as that request's reading."""

    def __init__(self, delegate: HTTPMessageDelegate, server: DrainingServer, connection: object) -> None:
        self._delegate = delegate
        self._server = server
        self._connection = connection
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # one call less
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._server.is_busy(self._connection)
        return self._delegate.headers_received(start_line, headers)
