"""The real server, with limits that a test need not wait for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application

from conf import HttpSettings
from server.http import DrainingServer
from tests.handlers.wire import Wire, WireAnswer


class Edge:
    """A `DrainingServer` on a free port, and connections to it. Lives as long as the test."""

    def __init__(self, server: DrainingServer, port: int) -> None:
        self.server = server
        self.port = port

    def wire(self) -> Wire:
        """A connection that is not yet open: ``async with edge.wire() as wire``."""
        return Wire(self.port)

    async def ask(self, request: bytes, *, has_body: bool = True) -> WireAnswer:
        """Send bytes over a connection of their own, and read one answer."""
        async with self.wire() as wire:
            wire.writer.write(request)
            return await wire.answer(has_body=has_body)

    async def last_words(self, request: bytes) -> bytes:
        """Send bytes over a connection of their own, and read until the server closes it, without a reset."""
        async with self.wire() as wire:
            wire.writer.write(request)
            return await wire.rest()

    async def is_well(self) -> bool:
        """Whether the next good request is answered."""
        answer = await self.ask(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return answer.code == 200


StartEdge = Callable[..., Edge]


@pytest.fixture
def start_edge(io_loop: IOLoop) -> Iterator[StartEdge]:
    """``start_edge(application, body_max_bytes=1000)`` starts the server with these settings."""
    started: list[Edge] = []

    def start(application: Application, **settings: Any) -> Edge:
        socket, port = bind_unused_port()
        server = DrainingServer(application, HttpSettings(**settings))
        server.add_socket(socket)
        started.append(Edge(server, port))
        return started[-1]

    yield start
    for edge in started:
        edge.server.stop()
        io_loop.run_sync(edge.server.close_all_connections)


def problem_in(answer: WireAnswer, status: int) -> dict[str, Any]:
    """An answer's problem, after a look at all that every error answer has."""
    problem: dict[str, Any] = json.loads(answer.body)
    assert answer.code == problem["status"] == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == problem["request_id"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in answer.headers
    assert problem["outcome"] == "not_applied"
    assert set(problem) == {"type", "title", "status", "detail", "instance", "request_id", "outcome"}
    return problem
