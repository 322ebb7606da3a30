"""Sockets that read after writes: their own, and those of their handshakes' tokens."""

from __future__ import annotations

import json

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from db import Database
from tests.faults.read_your_writes.conftest import token_of_a_lost_write
from tests.fixtures.server import Client

pytestmark = [pytest.mark.gen_test(timeout=60), pytest.mark.usefixtures("paused")]


async def test_a_socket_carries_its_own_token_along(client: Client):
    """What follows from a message of a reading socket is there for its next message."""
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/reading")
    book_id = "a" * 32

    await socket.write_message(f"write {book_id}")
    assert await socket.read_message() == f'{{"written": "{book_id}"}}'
    await socket.write_message(book_id)

    assert await socket.read_message() == f'{{"id": "{book_id}", "lost": false}}'
    socket.close()


async def test_a_socket_tells_the_token_of_what_a_message_has_written(client: Client):
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/writing")

    await socket.write_message("b" * 32)
    told = json.loads(await socket.read_message() or "")
    socket.close()

    answer = await client.get(f"/books/{'b' * 32}", headers={"Read-After": told["wrote"]})
    assert answer.code == 200


async def test_a_socket_tells_of_a_lost_write_where_its_message_has_failed(
    client: Client, database: Database
):
    """What was written is not there: its handler raises, and has no word with the client any more."""
    headers = {"Read-After": token_of_a_lost_write(database)}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{client.port}/reading", headers=headers))

    told = []
    for _ in range(2):
        await socket.write_message("c" * 32)
        told.append(json.loads(await socket.read_message() or ""))
    socket.close()

    assert [each["status"] for each in told] == [404, 404]
    assert [each.get("write_lost") for each in told] == [True, None]


async def test_a_message_that_is_retried_tells_of_a_lost_write_too(client: Client, database: Database):
    headers = {"Read-After": token_of_a_lost_write(database)}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{client.port}/retried", headers=headers))

    await socket.write_message("")
    told = json.loads(await socket.read_message() or "")
    socket.close()

    assert told == {"attempts": 2, "lost": True}


async def test_a_handshake_with_a_header_that_is_no_list_of_tokens_is_refused(client: Client):
    request = HTTPRequest(f"ws://127.0.0.1:{client.port}/reading", headers={"Read-After": "x"})

    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(request)

    assert refused.value.code == 400
