"""Large bodies: how large for which path, how many at once, and how much of them a process holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar

import pytest
from tornado.web import Application, RequestHandler

import server.edge.bodies
from handlers import ProblemHandler
from handlers.ops import LivezHandler
from server.edge.bodies import LARGE_BYTES
from tests.fixtures.edge import Edge, StartEdge
from tests.fixtures.logs import ExpectLog
from tests.handlers.waiting import until
from tests.handlers.wire import Wire, WireAnswer
from tests.server.test_limits import MIB, post, post_chunked

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}
LARGE = b"x" * (LARGE_BYTES + 1)


class Gate(ProblemHandler):
    """Answers when it is let go; two at a time where the body is large."""

    large_bodies_at_once = 2
    running: ClassVar[list[asyncio.Event]] = []

    async def post(self) -> None:
        event = asyncio.Event()
        self.running.append(event)
        try:
            await event.wait()
        finally:
            self.running.remove(event)
        self.write_json(len(self.request.body))


class Open(ProblemHandler):
    """Answers when it is let go, and says nothing of large bodies."""

    post = Gate.post
    running = Gate.running


class Small(ProblemHandler):
    """Takes little."""

    body_max_bytes = 1000

    def post(self) -> None:
        self.write_json(len(self.request.body))


class Any(ProblemHandler):
    """Takes what the server takes."""

    body_max_bytes = None
    post = Small.post


class Plain(RequestHandler):
    """Tornado's own, which says nothing of bodies."""

    def post(self) -> None:
        self.write(str(len(self.request.body)))


@pytest.fixture
def edge(start_edge: StartEdge) -> Edge:
    """A server without a database."""
    Gate.running.clear()
    routes = [("/gate", Gate), ("/open", Open), ("/small", Small), ("/any", Any), ("/plain", Plain)]
    return start_edge(Application([*routes, ("/livez", LivezHandler)]))


async def let_go(event: asyncio.Event) -> None:
    """Have the handler that waits for it answer."""
    event.set()
    await until(lambda: event not in Gate.running)


async def settled() -> None:
    """Time for whatever is going to happen at once."""
    await asyncio.sleep(0.1)


def problem(answer: WireAnswer, status: int) -> str:
    """The sentence of an answer that refuses."""
    told = json.loads(answer.body)
    assert answer.code == told["status"] == status
    assert told["outcome"] == "not_applied"
    return str(told["detail"])


@asynccontextmanager
async def sent(edge: Edge, *requests: bytes) -> AsyncIterator[list[Wire]]:
    """Connections on which a request each is under way."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(edge.wire()) for _ in requests]
        for wire, request in zip(wires, requests, strict=True):
            wire.writer.write(request)
        yield wires


# -- how large


@pytest.mark.parametrize("make", [post, post_chunked])
@pytest.mark.parametrize(
    ("path", "limit"), [("/small", 1000), ("/gate", MIB), ("/any", 8 * MIB), ("/plain", 8 * MIB)]
)
async def test_a_path_has_a_limit_of_its_own(edge: Edge, make: Callable[..., bytes], path: str, limit: int):
    """1 MiB where the handler says nothing, what the server takes where it says so."""
    answer = await edge.ask(
        make(b"x" * limit, b"x", path=path) if make is post_chunked else make(b"x" * (limit + 1), path=path)
    )

    assert problem(answer, 413) == f"a body here has at most {limit} bytes"


@pytest.mark.parametrize("make", [post, post_chunked])
@pytest.mark.parametrize(("path", "limit"), [("/small", 1000), ("/any", 8 * MIB)])
async def test_what_is_within_it_is_taken(edge: Edge, make: Callable[..., bytes], path: str, limit: int):
    answer = await edge.ask(make(b"x" * limit, path=path))

    assert (answer.code, answer.body) == (200, str(limit).encode())


async def test_a_handler_cannot_take_more_than_the_server(start_edge: StartEdge):
    edge = start_edge(Application([("/small", Small)]), body_max_bytes=500)

    assert (
        problem(await edge.ask(post(b"x" * 501, path="/small")), 413) == "a body here has at most 500 bytes"
    )


async def test_it_is_refused_when_the_headers_have_come(edge: Edge):
    """No byte of the body has been sent."""
    head = post(b"x" * 1001, path="/small").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    problem(await edge.ask(head), 413)


# -- how many at once


async def test_two_large_bodies_at_a_time_and_the_next_in_their_turn(edge: Edge):
    """Of a path that says so. Each that is done makes room for the next."""
    async with sent(edge, *[post(LARGE, path="/gate")] * 5) as wires:
        await until(lambda: len(Gate.running) == 2)
        await settled()
        assert len(Gate.running) == 2
        for left in (4, 3, 2, 1, 0):
            await let_go(Gate.running[0])
            await settled()
            assert len(Gate.running) == min(2, left)
        answers = [await wire.answer() for wire in wires]

    assert {(answer.code, answer.body) for answer in answers} == {(200, str(len(LARGE)).encode())}


@pytest.mark.parametrize(
    "request_", [post(b"x" * LARGE_BYTES, path="/gate"), post(LARGE, path="/open"), post(b"", path="/gate")]
)
async def test_others_do_not_wait(edge: Edge, request_: bytes):
    """Small ones, and those of other paths, while two large ones have not come to their end."""
    async with sent(edge, *[post(LARGE, path="/gate")] * 3):
        await until(lambda: len(Gate.running) == 2)
        async with sent(edge, *[request_] * 3) as wires:
            await until(lambda: len(Gate.running) == 5)
            for event in list(Gate.running):
                event.set()
            answers = [await wire.answer() for wire in wires]
        await until(lambda: len(Gate.running) == 1)
        Gate.running[0].set()
        await until(lambda: not Gate.running)

    assert {answer.code for answer in answers} == {200}


async def test_a_request_that_waits_for_too_long_gets_a_retry_after(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
):
    monkeypatch.setattr(server.edge.bodies, "_TURN_S", 0.05)
    async with sent(edge, *[post(LARGE, path="/gate")] * 2) as wires:
        await until(lambda: len(Gate.running) == 2)

        with expect_log("tornado.access", "503 POST /gate"):
            answer = await edge.ask(post(LARGE, path="/gate"))

        for event in list(Gate.running):
            event.set()
        assert [(await wire.answer()).code for wire in wires] == [200, 200]
    assert "all 2 slots for large bodies of this path are taken" in problem(answer, 503)
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Connection"] == "close"


async def test_a_client_that_leaves_its_turn_leaves_it_to_others(edge: Edge):
    """Its request is not begun: not while it waited, and not when its turn comes."""
    async with sent(edge, *[post(LARGE, path="/gate")] * 2):
        await until(lambda: len(Gate.running) == 2)
        async with sent(edge, *[post(LARGE, path="/gate")] * 3):
            await until(lambda: edge.server.busy == 5)
            await settled()
        await until(lambda: edge.server.busy == 2)
        async with sent(edge, post(LARGE, path="/gate")) as wires:
            await until(lambda: edge.server.busy == 3)
            for _ in range(3):
                await let_go(Gate.running[0])
                await settled()
            assert (await wires[0].answer()).code == 200
    assert not Gate.running


# -- how much


async def test_the_bodies_in_a_process_are_bounded_together(start_edge: StartEdge, expect_log: ExpectLog):
    """Eight of the largest size. What comes beyond is 503; what was held is free when its request is over."""
    Gate.running.clear()
    edge = start_edge(Application([("/open", Open), ("/livez", LivezHandler)]), body_max_bytes=100_000)
    largest = post(b"x" * 100_000, path="/open")
    for make in (lambda: largest, lambda: post_chunked(b"x" * 60_000, b"x" * 40_000, path="/open")):
        async with sent(edge, *[make()] * 8) as wires:
            await until(lambda: len(Gate.running) == 8)

            with expect_log("tornado.access", "503 POST /open"):
                answer = await edge.ask(make())
            small = asyncio.ensure_future(edge.ask(post(b"x", path="/open")))
            assert await edge.is_well()

            await until(lambda: len(Gate.running) == 9)
            for event in list(Gate.running):
                event.set()
            assert {(await wire.answer()).code for wire in wires} == {200}
        assert (await small).code == 200
        assert "take all the room" in problem(answer, 503)
        assert answer.headers["Retry-After"] == "1"


async def test_a_body_that_does_not_come_takes_no_room(start_edge: StartEdge):
    """What counts is what has come, not what was announced: slow clients keep no other out."""
    Gate.running.clear()
    edge = start_edge(Application([("/small", Any)]), body_max_bytes=100_000)
    head = post(b"x" * 100_000, path="/small")[:2_000]

    async with sent(edge, *[head] * 20):
        await settled()
        assert (await edge.ask(post(b"x" * 100_000, path="/small"))).code == 200
