"""The chat: a transaction a message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect


async def read(socket: WebSocketClientConnection) -> Any:
    message = await socket.read_message()
    assert message is not None
    return json.loads(message)


@pytest.mark.gen_test
async def test_it_runs_as_a_module_and_what_is_read_was_committed(start_example, sql):
    """Two clients; the refusal of a line goes to its sender alone."""
    port = start_example("chat").port
    one, other = [await websocket_connect(f"ws://127.0.0.1:{port}/chat") for _ in range(2)]

    await one.write_message("hello")
    for each in (one, other):
        assert await read(each) == {"number": 1, "text": "hello"}
    assert sql("SELECT text FROM lines") == [{"text": "hello"}]

    await one.write_message("hello")
    assert (await read(one))["status"] == 409
    await other.write_message("hi")
    for each in (one, other):
        assert (await read(each))["text"] == "hi"
    one.close()
    other.close()
