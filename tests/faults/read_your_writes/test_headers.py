"""The headers: `Wrote`, `Read-After` and `Write-Lost`."""

from __future__ import annotations

import asyncio
import socket

import pytest

from db import Database
from db.written import WriteTokens, Written
from tests.faults.read_your_writes.conftest import DRIVERS, after, token_of_a_lost_write, write
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client

pytestmark = [pytest.mark.gen_test(timeout=60)]


@pytest.mark.usefixtures("paused")
async def test_tokens_may_come_in_several_headers(client: Client):
    """A proxy may fold them into one, or a client send one for each."""
    first, second = [await write(client) for _ in range(2)]
    lines = "".join(f"Read-After: {each.headers['Wrote']}\r\n" for each in (first, second))

    with socket.create_connection(("127.0.0.1", client.port)) as plain:
        plain.sendall(f"GET {first.headers['Location']} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        answer = await asyncio.to_thread(plain.recv, 100)

    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_an_answer_of_prepare_has_the_headers_as_well(client: Client, database: Database):
    written = await client.post("/redirects", {})
    seen = await client.get("/redirects", headers=after(written))
    lost = await client.get("/redirects", headers={"Read-After": token_of_a_lost_write(database)})

    assert [each.code for each in (written, seen, lost)] == [303] * 3
    assert [each.headers.get("Write-Lost") for each in (seen, lost)] == [None, "1"]


async def test_no_cache_tells_another_read_of_a_lost_write(client: Client, database: Database):
    """One that keeps an answer gives it to others; a 304 changes the headers of the one that it has."""
    lost = {"Read-After": token_of_a_lost_write(database)}
    shelf = await client.post("/shelves", {"name": "of a cache"})
    path = f"/tagged/{shelf.json()['id']}"
    tag = (await client.get(path, headers=after(shelf))).headers["ETag"]

    answers = [
        await client.get(path, headers=lost),
        await client.get(path, headers=lost | {"If-None-Match": tag}),
    ]

    assert [(each.code, each.headers["Write-Lost"]) for each in answers] == [(200, "1"), (304, "1")]
    assert [each.headers.get("Cache-Control") for each in answers] == ["no-store"] * 2


@pytest.mark.parametrize("further", [{"database.write_token_key": None}])
async def test_without_a_key_there_are_no_tokens(client: Client):
    """Nor is the header read."""
    written = await write(client)
    read = await client.get("/books", headers={"Read-After": "x"})

    assert "Wrote" not in written.headers
    assert read.code == 200


async def test_the_document_has_the_headers(client: Client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    read, made = (paths["/described"][method] for method in ("get", "post"))

    named = [each["$ref"].rpartition("/")[2] for each in read["parameters"]]
    assert "Read-After" in named
    assert "Write-Lost" in read["responses"]["200"]["headers"]
    assert "Wrote" in made["responses"]["201"]["headers"]


async def test_only_what_was_committed_has_a_token(client: Client, expect_log: ExpectLog):
    """A read has none, nor a request that was refused, or has written nothing."""
    await client.post("/shelves", {"name": "once"})
    with expect_log("onfinish", ".", required=False):
        refused = await client.post("/shelves", {"name": "once"})
    read = await client.get("/shelves")

    assert refused.code == 409
    assert "Wrote" not in refused.headers
    assert "Wrote" not in read.headers


@pytest.mark.parametrize("given", ["x", "", ",", "A" * 56, "of another key", "one of several", "17 of them"])
async def test_a_header_that_is_no_list_of_our_tokens_is_a_problem_that_names_it(client: Client, given: str):
    written = await write(client)
    token = written.headers["Wrote"]
    if given == "of another key":
        given = WriteTokens("o" * 32).token_of(Written("ab" * 16, 1, 0.0))
    elif given == "one of several":
        given = f"{token}, x, {token}"
    elif given == "17 of them":
        given = ", ".join([token] * 17)

    answer = await client.get("/shelves", headers={"Read-After": given})

    assert answer.code == 400
    assert "Read-After" in answer.json()["detail"]
