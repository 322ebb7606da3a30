"""The contextvar form, where code cannot be passed a session: a signal's listeners."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from tornado.web import Application
from tornado.websocket import websocket_connect

from tests.examples.stock import ROUTES, Base, restock
from tests.examples.test_chat import read

FORM = {"Content-Type": "application/x-www-form-urlencoded"}

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver("postgresql+asyncpg")]


@pytest.fixture
def client(database, serve):
    database.create_all(Base.metadata)
    return serve(Application(ROUTES, database=database))


async def move(client, name, pieces):
    return await client.post("/stock", urlencode({"name": name, "pieces": pieces}).encode(), headers=FORM)


async def test_a_listener_writes_in_the_transaction_of_the_request(client, sql, expect_log):
    """What is refused is undone with what its listener wrote."""
    kept = await move(client, "pears", 3)
    with expect_log("tornado.access", "409 POST"):
        refused = await move(client, "pears", -4)

    assert (kept.code, kept.json(), refused.code) == (200, 3, 409)
    assert refused.json()["detail"] == "there are only 3 of pears"
    assert (await client.get("/stock")).json() == {"pears": 3}
    assert sql("SELECT text FROM movements") == [{"text": "+3 pears"}]


async def test_each_message_of_a_socket_and_a_job_are_transactions_too(client, database, sql):
    await restock(database, name="pears", pieces=1)
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/scanner")

    await socket.write_message("pears")
    assert await read(socket) == {"left": 0}
    await socket.write_message("pears")
    assert (await read(socket))["status"] == 409
    socket.close()

    rows = sql("SELECT text FROM movements ORDER BY id")
    assert rows == [{"text": "+1 pears"}, {"text": "-1 pears"}]


async def test_it_runs_as_a_module(start_example):
    client = start_example("stock")

    assert (await move(client, "plums", 2)).code == 200
    assert (await client.get("/stock")).json() == {"pears": 10, "plums": 2}
