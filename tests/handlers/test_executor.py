"""A handler that asks for threads: what blocks in its functions stops no other request, on any driver."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

import pytest
from sqlalchemy.orm import Session
from tornado.web import Application
from tornado.websocket import websocket_connect

from db import Database
from handlers import ApiHandler, SessionWebSocketHandler, log_request
from tests.fixtures.backends import ASYNC, DEFAULT, GREENLETS
from tests.fixtures.server import Serve
from tests.handlers.conftest import Notes
from tests.handlers.notes import add_note

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.parametrize("backend", [*DEFAULT, ASYNC[0], *GREENLETS], indirect=True),
]


def add_blocking(session: Session, goes_on: threading.Event) -> str:
    """Write, then block as a call of another service does."""
    add_note(session, text="held")
    if not goes_on.wait(10):
        raise AssertionError("the event loop stood still")
    return threading.current_thread().name


class BlockingHandler(ApiHandler):
    """Writes a note while another request is answered."""

    executor = "threads"
    goes_on: ClassVar[threading.Event]

    async def post(self) -> None:
        """Write."""
        name = await self.run(add_blocking, self.session, self.goes_on)
        self.write({"thread": name})


class FreeingHandler(ApiHandler):
    """Lets the other one go on: it is on the event loop."""

    async def get(self) -> None:
        """Read."""
        BlockingHandler.goes_on.set()


class BlockingSocket(SessionWebSocketHandler):
    """The same for a message."""

    executor = "threads"

    async def handle_message(self, message: str | bytes) -> None:
        name = await self.run(add_blocking, self.session, BlockingHandler.goes_on)
        self.write_message({"thread": name})


@pytest.fixture
def application(database: Database, notes: Notes) -> Application:
    BlockingHandler.goes_on = threading.Event()
    routes = [("/block", BlockingHandler), ("/free", FreeingHandler), ("/socket", BlockingSocket)]
    return Application(routes, database=database, log_function=log_request)


async def test_another_request_is_answered_meanwhile(application: Application, serve: Serve, notes: Notes):
    client = serve(application)

    blocked = asyncio.create_task(client.post("/block", {}))
    await asyncio.sleep(0.1)
    assert (await client.get("/free")).code == 200
    answer = await blocked

    assert (answer.code, answer.json()) == (200, {"thread": "onfinish-writer_0"})
    assert notes() == ["held"]


async def test_what_fails_at_its_commit_is_no_success(application: Application, serve: Serve, notes: Notes):
    client = serve(application)
    BlockingHandler.goes_on.set()
    await client.post("/block", {})

    answer = await client.post("/block", {})

    assert answer.code == 409
    assert notes() == ["held"]


async def test_a_message_is_handled_in_a_thread_too(application: Application, serve: Serve, notes: Notes):
    client = serve(application)
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/socket")

    await socket.write_message("go")
    await asyncio.sleep(0.1)
    assert (await client.get("/free")).code == 200
    reply = await socket.read_message()
    socket.close()

    assert reply == '{"thread": "onfinish-writer_0"}'
    assert notes() == ["held"]
