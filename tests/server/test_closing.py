"""Connections at the end of a server: none is closed that a request is on its way through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from tornado.web import Application

from handlers import ProblemHandler
from handlers.ops import LivezHandler
from server.edge.listening import SharedSocket
from tests.fixtures.edge import Edge, StartEdge
from tests.handlers.wire import Wire

pytestmark = pytest.mark.gen_test

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Slow(ProblemHandler):
    """Answers when it is told to."""

    async def get(self) -> None:
        self.settings["reached"].set()
        await self.settings["goes_on"].wait()
        self.write_json("done")


@pytest.fixture
def gates() -> dict[str, asyncio.Event]:
    """What `Slow` sets, and what it waits for."""
    return {"reached": asyncio.Event(), "goes_on": asyncio.Event()}


@pytest.fixture
def edge(start_edge: StartEdge, gates: dict[str, asyncio.Event]) -> Edge:
    routes = [("/livez", LivezHandler), ("/slow", Slow)]
    return start_edge(Application(routes, reached=gates["reached"], goes_on=gates["goes_on"]))


@pytest.fixture
def clients(edge: Edge) -> Iterator[list[socket.socket]]:
    """Five that have connected and sent a request, while the server had no turn to accept them."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=10))
            for _ in range(5)
        ]
        for each in made:
            each.sendall(REQUEST)
        yield made


async def end(edge: Edge) -> None:
    """What the lifecycle does to a server."""
    edge.server.end_keep_alive()
    edge.server.stop()
    await edge.server.close_idle()
    assert await edge.server.drained(5)
    await edge.server.close_all_connections()


def read_all(client: socket.socket) -> bytes:
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


async def is_closed(wire: Wire) -> bool:
    return await wire.reader.read() == b""


async def test_a_connection_that_has_sent_is_answered(edge: Edge, clients: list[socket.socket]):
    """A socket that is closed resets what waits to be accepted: a proxy answers 502, and repeats no POST."""
    await end(edge)

    for each in clients:
        answer = await asyncio.to_thread(read_all, each)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in answer


async def test_so_are_those_that_wait_at_a_socket_that_processes_share(start_edge: StartEdge):
    """Which gives its process one connection at a turn of the loop, and says then that there is none."""
    edge = start_edge(Application([("/livez", LivezHandler)]))
    own = socket.create_server(("127.0.0.1", 0))
    own.setblocking(False)
    port = own.getsockname()[1]
    edge.server.add_sockets([SharedSocket(fileno=own.detach())])
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(5)
        ]
        for each in made:
            each.sendall(REQUEST)

        await end(edge)

        for each in made:
            assert (await asyncio.to_thread(read_all, each)).startswith(b"HTTP/1.1 200 ")


async def test_a_new_connection_may_send_its_request(edge: Edge):
    """A proxy's request follows its connection by a round trip."""
    async with edge.wire() as wire:
        edge.server.end_keep_alive()
        edge.server.stop()
        closing = asyncio.ensure_future(edge.server.close_idle(10))
        await asyncio.sleep(0.1)
        assert not closing.done()

        wire.writer.write(REQUEST)

        assert (await wire.answer()).code == 200
        await asyncio.wait_for(closing, 5)


async def test_a_connection_that_sends_nothing_is_not_waited_for_long(edge: Edge):
    async with edge.wire() as wire:
        edge.server.end_keep_alive()
        edge.server.stop()

        await edge.server.close_idle(0.1)

        assert await asyncio.wait_for(is_closed(wire), 5)


async def test_a_connection_at_rest_is_closed_at_once_while_others_are_answered(
    edge: Edge, gates: dict[str, asyncio.Event]
):
    """Its client connects elsewhere; over this one it would be refused."""
    async with edge.wire() as resting, edge.wire() as busy:
        resting.writer.write(REQUEST)
        assert (await resting.answer()).code == 200
        busy.writer.write(REQUEST.replace(b"livez", b"slow"))
        await gates["reached"].wait()

        edge.server.end_keep_alive()
        edge.server.stop()
        await edge.server.close_idle()

        assert await asyncio.wait_for(is_closed(resting), 5)
        assert edge.server.busy == 1
        gates["goes_on"].set()
        answer = await busy.answer()
    assert answer.code == 200
    assert answer.headers["Connection"] == "close"


async def test_a_request_that_has_come_over_a_connection_at_rest_is_answered(edge: Edge):
    """It is not read yet: it waits in the kernel's buffer."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as client:
        client.sendall(REQUEST)
        first = await asyncio.to_thread(client.recv, 65536)
        client.sendall(REQUEST)

        await end(edge)

        last = await asyncio.to_thread(read_all, client)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" not in first
    assert last.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in last
