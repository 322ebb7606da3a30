"""An HTTP server that tracks which connections are busy, drains them, and closes stalled ones."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterable
from typing import Any, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream

from conf import HttpSettings
from handlers.lifecycle.errors import Problem
from server.edge._tornado import disconnect_after_response
from server.edge.bodies import Bodies
from server.edge.early_errors import Caller, Head, error_response
from server.edge.hosts import Hosts
from server.edge.limits import RequestLimits
from server.edge.linger import Lingering
from server.edge.proxies import Proxies
from server.edge.stream import ClientStream

_CHECK_S = 1.0
"""How often all connections are checked for slow clients: a timer for each would cost each request."""

_FIRST_REQUEST_S = 1.0
"""How long a stopping server waits for a new connection's first request. A proxy opens a connection to send a
request at once; a browser may open one in advance."""

_POLL_S = 0.01


class DrainingServer(HTTPServer):
    """As Tornado's, and can wait for the requests in flight. Lives as long as its process.

    Tornado's ``close_all_connections`` cuts off requests that are being answered: a client got a reset, and
    its row was committed. A connection is busy from a request's headers until the next request is awaited,
    which Tornado does when the response has been written to the socket.

    The settings limit how large and how slow a request may be, see `RequestLimits` and `ClientStream`.
    """

    def initialize(  # type: ignore[override]
        self,
        request_callback: Any,
        settings: HttpSettings | None = None,
        *,
        hosts: Hosts | None = None,
        **kwargs: Any,
    ) -> None:
        """Tornado's constructor.

        Args:
            request_callback: the application.
            settings: the limits; those of a plain ``HttpSettings()`` by default.
            hosts: those that are served; any by default.
            kwargs: those of Tornado's `HTTPServer`. No ``ssl_options``: a proxy terminates TLS.
        """
        self._settings = settings = settings or HttpSettings()
        self._hosts = hosts
        super().initialize(
            request_callback,
            max_body_size=settings.body_max_bytes,
            max_header_size=settings.header_max_bytes,
            **kwargs,
        )
        self.conn_params.header_timeout = None  # Tornado's costs each request a timer, and sends no response
        self._busy: dict[object, HTTPConnection] = {}
        self._idle = asyncio.Event()
        self._bodies = Bodies(settings.body_max_bytes)
        self._proxies = Proxies(settings.trusted_proxies)
        self._lingering = Lingering()
        self._listening: list[socket.socket] = []
        self._streams: set[ClientStream] = set()
        self._next_check: asyncio.TimerHandle | None = None
        self._check_s = min(
            _CHECK_S, settings.header_timeout_s / 4, settings.body_timeout_s / 4, settings.idle_timeout_s / 4
        )

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return len(self._busy)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a new connection."""
        peer = Caller(str(address[0]) if address else "-", self.protocol or "http")

        def refuse(problem: Problem, head: Head | None) -> bytes:
            caller = peer if head is None else self._proxies.caller(peer, head.headers)
            return error_response(problem, head, caller, getattr(self.request_callback, "settings", {}))

        client = ClientStream(
            stream, peer=peer, settings=self._settings, refuse=refuse, lingering=self._lingering
        )
        self._streams.add(client)
        if self._next_check is None:
            self._next_check = asyncio.get_running_loop().call_later(self._check_s, self._check)
        super().handle_stream(client, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection awaits its next request."""
        self._is_idle(server_conn)
        return RequestLimits(
            super().start_request(server_conn, request_conn),
            connection=request_conn,
            key=server_conn,
            stream=_stream_of(server_conn),
            proxies=self._proxies,
            hosts=self._hosts,
            body_max_bytes=self._settings.body_max_bytes,
            bodies=self._bodies,
            on_request=lambda: self._is_busy(server_conn, request_conn),
        )

    def on_close(self, server_conn: object) -> None:
        """A connection has closed."""
        self._is_idle(server_conn)
        self._streams.discard(_stream_of(server_conn))
        super().on_close(server_conn)

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """As Tornado's: accept connections on these sockets."""
        sockets = list(sockets)
        self._listening += sockets
        super().add_sockets(sockets)

    def stop(self) -> None:
        """As Tornado's: stop listening. Connections in the queue are accepted and served first.

        When the listening socket closes, the kernel resets connections that were not accepted. Their clients
        may have sent a request by then, and could not know that it was not read.
        """
        for listening in self._listening:
            with contextlib.suppress(OSError):  # the queue is empty
                while True:
                    connection, address = socket.socket.accept(listening)  # `SharedSocket` would accept one
                    stream = IOStream(connection, self.max_buffer_size, self.read_chunk_size)
                    self.handle_stream(stream, address)
        self._listening.clear()
        super().stop()

    async def close_idle(self, timeout_s: float = _FIRST_REQUEST_S) -> None:
        """Close the connections that await a request, except where a request may be on its way.

        To be called when the server has stopped and keep-alive has ended. On a connection that had a request
        before, the next one is read if it has arrived; on a new connection it is awaited. Afterwards there
        are only connections whose request has arrived, or is arriving.

        Args:
            timeout_s: how long to wait for a first request.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            await asyncio.sleep(_POLL_S)  # lets the loop read what has arrived
            is_late = time.monotonic() >= deadline
            idle = [stream for stream in self._streams if stream.is_idle]
            closing = [stream for stream in idle if is_late or not stream.is_new]
            for stream in closing:
                stream.close()
            if len(closing) == len(idle):
                return

    async def close_all_connections(self) -> None:
        """As Tornado's. Also those that linger until their clients close."""
        await super().close_all_connections()
        await self._lingering.close()
        if self._next_check is not None:
            self._next_check.cancel()
            self._next_check = None

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no connection is busy. Returns whether none is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._busy:  # a loop: the next request may have arrived before this task was resumed
                    await self._idle.wait()
        return not self._busy

    def end_keep_alive(self) -> None:
        """Send ``Connection: close`` with each connection's next response, and close it then.

        Otherwise clients that never pause would keep the server busy for ever, and a proxy would send its
        next request over a connection that is about to be closed. The parameters are one object that all
        connections share, and that Tornado reads when a request's headers have arrived; for the requests
        under way the flag is set on their connections.
        """
        self.conn_params.no_keep_alive = True
        for connection in self._busy.values():
            disconnect_after_response(connection)

    def _is_busy(self, connection: object, request: HTTPConnection) -> None:
        """A request's headers have arrived."""
        self._busy[connection] = request
        self._idle.clear()

    def _is_idle(self, connection: object) -> None:
        self._busy.pop(connection, None)
        self._bodies.release(connection)
        if not self._busy:
            self._idle.set()

    def _check(self) -> None:
        for stream in list(self._streams):
            stream.check()
        self._next_check = None
        if self._streams:
            self._next_check = asyncio.get_running_loop().call_later(self._check_s, self._check)


def _stream_of(connection: object) -> ClientStream:
    return cast(ClientStream, cast(HTTP1ServerConnection, connection).stream)
