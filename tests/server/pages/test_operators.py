"""Who sees the pages for operators, of the server and of an application of one's own: all others get 404."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from conf import OpsSettings, Settings
from db import Database
from server.monitoring.ops import Ops
from server.pages import pages_for
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp
from tests.server.pages.conftest import BROWSER
from tests.server.test_hosts import ask

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


class Afar(HTTPServer):
    """A server whose callers come from elsewhere, as no test's own can."""

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        super().handle_stream(stream, ("192.0.2.7", *address[1:]))


TOKEN = {"Authorization": "Bearer sécret"}

CALLERS: Mapping[str, dict[str, str]] = {
    "on loopback": {},
    "by a loopback name": {"Host": "LocalHost.:8888"},
    "by IPv6's loopback": {"Host": "[::1]:80"},
    "by a host that was given": {"Host": "pages.example:8888"},
    "by an unknown host": {"Host": "evil.example"},
    "behind a proxy": {"X-Forwarded-For": "127.0.0.1"},
    "behind one that forwards no address": {"Via": "1.1 proxy"},
    "by HTTP/1.0": {"Host": "127.0.0.1:8888"},  # a proxy that is told nothing else names its own upstream
    "with another token": {"Authorization": "Bearer secret"},
    "with an empty token": {"Authorization": "Bearer "},
    "with the token": TOKEN,
    "with the token, by an unknown host": {**TOKEN, "Host": "api.example"},
    "with the token, behind a proxy": {**TOKEN, "X-Forwarded-For": "192.0.2.7"},
    "with the token, by HTTP/1.0": {**TOKEN, "Host": "127.0.0.1:8888"},
    "from afar": {},
    "from afar, by a loopback name": {"Host": "localhost"},
    "from afar, with the token": TOKEN,
}

LOCAL = {
    "on loopback",
    "by a loopback name",
    "by IPv6's loopback",
    "by a host that was given",
    "with another token",
    "with an empty token",
    "with the token",
}
HAS_TOKEN = {caller for caller, headers in CALLERS.items() if headers.items() >= TOKEN.items()}
NONE: set[str] = set()

PAGES = ("/-/live", "/-/live.json", "/-/live.txt", "/-/requests", "/-/requests.json", "/-/requests/abc.1")
OF_THE_SERVER = (*PAGES, "/", "/metrics", "/stats")


def ask_by_http_1_0(client: Client, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body; Tornado's client speaks 1.1 alone."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return ask(client.port, path, None, *lines, version="HTTP/1.0")


@on_sqlite
@pytest.mark.parametrize(
    ("served", "token", "admitted"),
    [
        ("development", None, LOCAL),
        ("testing", None, LOCAL),
        ("staging", None, NONE),
        ("production", None, NONE),
        ("an application of one's own", None, LOCAL),
        ("an application of one's own", "sécret", HAS_TOKEN),
    ],
)
@pytest.mark.gen_test
async def test_who_is_an_operator_sees_each_page_and_all_others_none(
    served: str,
    token: str | None,
    admitted: set[str],
    settings: Settings,
    database: Database,
    make_application: MakeApp,
    serve: Serve,
):
    """The server in each environment, and an application of one's own, with and without a token."""
    if served == "an application of one's own":
        paths: tuple[str, ...] = PAGES
        routes = pages_for(database, hosts=["Pages.example"], token=token)
        application = Application([*routes], database=database, log_function=lambda handler: None)
    else:
        paths = OF_THE_SERVER
        ops_settings = OpsSettings(hosts=("pages.example",), record_requests=True)
        settings = settings.model_copy(update={"environment": served, "ops": ops_settings})
        application = make_application(settings, database, Ops(settings))
    near, far = serve(application), serve(application, Afar)

    seen: dict[str, set[str]] = {}
    for caller, headers in CALLERS.items():
        client: Client = far if "from afar" in caller else near
        for path in paths:
            if "by HTTP/1.0" in caller:
                code, body = await asyncio.to_thread(ask_by_http_1_0, client, path, {**BROWSER, **headers})
            else:
                answer = await client.get(path, headers={**BROWSER, **headers})
                code, body = answer.code, answer.body
            # The page of a request that is not kept is 404 as well, and says what is.
            shows = code == 200 or b"No such request is kept" in body
            assert shows or code == 404, (caller, path, code, body)
            if shows:
                seen.setdefault(caller, set()).add(path)

    assert seen == {caller: set(paths) for caller in admitted}


@on_sqlite
@pytest.mark.parametrize("options", [{"token": ""}, {"hosts": ["https://pages.example/"]}])
def test_what_would_protect_nothing_is_refused(options: dict[str, Any], database: Database):
    """A token that was not set; a host as no request names it."""
    with pytest.raises(ValueError, match=r"token|hosts"):
        pages_for(database, **options)
