"""A client for an application, which is served on a real socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

CLIENTS_MAX = 300
"""Requests under way at once; Tornado's client lets ten run otherwise, too few for tests of overlap."""

CONNECTION_FAILED = 599
"""The code that Tornado's client gives to no answer at all."""


class Answer:
    """An answer as it was read from the socket. Lives as long as the test keeps it."""

    def __init__(self, response: HTTPResponse) -> None:
        self.code = response.code
        self.headers = response.headers
        self.body: bytes = response.body

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.code} {self.body[:200]!r}>"


class Client:
    """An HTTP client for one server on this machine. Lives as long as the test; errors are answers.

    An answer that never came has the code 599.

    Args:
        port: where the server listens.

    ``on_answer``: called with method, path and answer of each request that was answered; what it raises is
    raised in the test.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.on_answer: Callable[[str, str, Answer], object] | None = None
        self._http = AsyncHTTPClient(force_instance=True, max_clients=CLIENTS_MAX)

    async def request(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send one request; a body that is not bytes is sent as JSON. Follows no redirect.

        Args:
            options: further arguments of Tornado's `HTTPRequest`, such as ``headers``.
        """
        headers = dict(options.pop("headers", {}))
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            body=body,
            headers=headers,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=options.pop("request_timeout", 30),
            **options,
        )
        answer = Answer(await self._http.fetch(request, raise_error=False))
        if self.on_answer is not None and answer.code != CONNECTION_FAILED:
            self.on_answer(method, path, answer)
        return answer

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.request("GET", path, **options)

    async def head(self, path: str, **options: Any) -> Answer:
        """HEAD."""
        return await self.request("HEAD", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        """POST."""
        return await self.request("POST", path, body if body is not None else b"", **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> Answer:
        """PATCH."""
        return await self.request("PATCH", path, body if body is not None else b"", **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        """DELETE."""
        return await self.request("DELETE", path, **options)

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()


def start_server(
    application: Application, server_class: type[HTTPServer] = HTTPServer, **options: Any
) -> tuple[HTTPServer, Client]:
    """As `serving`, for code that is not async; `stop_server` is to follow on the same loop."""
    socket, port = bind_unused_port()
    server = server_class(application, **options)
    server.add_socket(socket)
    return server, Client(port)


async def stop_server(server: HTTPServer, client: Client) -> None:
    """Close a server with its connections, and the client of it."""
    client.close()
    server.stop()
    await server.close_all_connections()


@contextlib.asynccontextmanager
async def serving(
    application: Application, server_class: type[HTTPServer] = HTTPServer, **options: Any
) -> AsyncIterator[Client]:
    """Serve an application on a free port of the running event loop, until the end of the block.

    Args:
        application: its database stays the caller's to close.
        server_class: Tornado's, or one derived from it.
        options: further arguments of that class.

    Returns:
        A client for it.
    """
    server, client = start_server(application, server_class, **options)
    try:
        yield client
    finally:
        await stop_server(server, client)
