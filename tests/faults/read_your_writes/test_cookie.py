"""The cookie in which a browser sends the token."""

from __future__ import annotations

import pytest
from tornado.web import Application

from db import Database
from tests.faults.read_your_writes.conftest import BOOK, token_of_a_lost_write, write
from tests.fixtures.server import Client, Serve

pytestmark = [pytest.mark.gen_test(timeout=60)]


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize("further", [{"http.write_cookie_s": 60}])
async def test_a_browser_sends_the_token_as_a_cookie(client: Client):
    written = await write(client)
    cookie = written.headers["Set-Cookie"]
    pair = cookie.partition(";")[0]

    answer = await client.get(written.headers["Location"], headers={"Cookie": pair})
    forged = await client.get(written.headers["Location"], headers={"Cookie": "onfinish_wrote=x"})

    assert cookie == f"{pair}; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"
    assert (answer.code, forged.code) == (200, 404)


@pytest.mark.parametrize("further", [{"http.write_cookie_s": 60}], ids=["cookie"])
async def test_the_cookie_of_a_lost_write_is_taken_back_and_one_over_https_is_secure(
    app: Application, serve: Serve, database: Database
):
    client, https = serve(app, xheaders=True), {"X-Forwarded-Proto": "https"}
    cookie = f"onfinish_wrote={token_of_a_lost_write(database)}"

    written = await client.post("/books", BOOK, headers=https)
    lost = await client.get("/books", headers={"Cookie": cookie})
    streamed = await client.get("/export", headers={"Cookie": cookie})
    too_early = await client.get("/hurried", headers={"Cookie": cookie})

    assert written.headers["Set-Cookie"].endswith("; SameSite=Lax; Secure")
    for answer in (lost, streamed):
        assert answer.headers["Write-Lost"] == "1"
        assert answer.headers.get_list("Set-Cookie") == [
            "onfinish_wrote=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"
        ]
    assert (too_early.code, too_early.headers.get("Write-Lost")) == (200, None)


@pytest.mark.parametrize("further", [{"http.write_cookie_s": 60}], ids=["cookie"])
async def test_the_cookie_of_another_write_than_the_lost_one_stays(client: Client, database: Database):
    """The header is read in its place."""
    written = await write(client)
    cookie = written.headers["Set-Cookie"].partition(";")[0]
    lost = {"Read-After": token_of_a_lost_write(database)}

    answer = await client.get("/books", headers=lost | {"Cookie": cookie})

    assert answer.headers["Write-Lost"] == "1"
    assert answer.headers.get_list("Set-Cookie") == []
