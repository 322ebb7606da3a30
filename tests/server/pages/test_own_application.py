"""`pages_for`: the pages of an application of one's own, which has a `Database` and none of the server."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import pytest
from sqlalchemy import text
from tornado.web import Application
from tornado.websocket import websocket_connect

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler, SessionHandler, SessionWebSocketHandler
from server.pages import pages_for
from tests.fixtures.server import Client, Serve
from tests.server.pages.conftest import BROWSER

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


class Reads(SessionHandler):
    """Tornado's own face, one statement."""

    async def get(self) -> None:
        await self.run(self.session.execute, text("SELECT 1 AS one"))
        self.finish("1")


async def live(client: Client) -> dict[str, Any]:
    """``/-/live.json``."""
    found: dict[str, Any] = (await client.get("/-/live.json")).json()
    return found


async def kept(client: Client, request_id: str) -> dict[str, Any]:
    """The only request that is kept with an id."""
    [found] = (await client.get(f"/-/requests/{request_id}.json")).json()["requests"]
    assert isinstance(found, dict)
    return found


@pytest.mark.every_driver
@pytest.mark.gen_test
async def test_each_page_is_there_in_each_form(database: Database, serve: Serve):
    """For a browser, a program and a terminal; with the links of these two pages alone."""
    client = serve(Application([("/reads", Reads), *pages_for(database)], database=database))
    await client.get("/reads", headers={"X-Request-Id": "abc.1"})

    for path in ("/-/live", "/-/requests", "/-/requests/abc.1"):
        page = await client.get(path, headers=BROWSER)
        program = await client.get(f"{path}.json")
        assert (page.code, program.code) == (200, 200), path
        assert page.headers["Content-Type"].startswith("text/html")
        [nav] = re.findall(r"<nav.*?</nav>", page.body.decode(), re.DOTALL)
        up = "../" * (path.count("/") - 1)
        assert re.findall(r'href="([^"]*)"', nav) == [f"{up}-/live", f"{up}-/requests"]
        for asset in re.findall(r'(?:href|src)="[./]*(-/assets/[^"]+)"', page.body.decode()):
            assert (await client.get(f"/{asset}")).code == 200, asset
    assert (await client.get("/-/live.txt")).code == 200
