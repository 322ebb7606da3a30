"""``routes``: every route of the application, and what a request to it does."""

from __future__ import annotations

import json

import pytest
from tornado.routing import URLSpec

from handlers import ApiHandler
from server.commands.routes import Row, _rows
from tests.server.test_cli import run


class Reports(ApiHandler):
    """Reads in a POST, has a deadline of its own, and is not retried."""

    read_only = True
    timeout_s = 5.0
    retry = False

    async def post(self) -> None:
        """Not called."""


class Export(ApiHandler):
    """A stream has no deadline."""

    streams = True

    async def get(self) -> None:
        """Not called."""


class Plain(ApiHandler):
    """As the settings have it."""

    async def get(self, name: str) -> None:
        """Not called."""

    async def put(self, name: str) -> None:
        """Not called."""


@pytest.mark.parametrize(
    ("handler", "path", "rows"),
    [
        (Reports, "/reports", [Row("POST", "/reports", "Reports", "reads", 5.0, False)]),
        (Export, "/export", [Row("GET", "/export", "Export", "streams", None, False)]),
        (
            Plain,
            "/plain/([a-z]+)",
            [
                Row("GET", "/plain/{name}", "Plain", "reads", 30.0, True),
                Row("PUT", "/plain/{name}", "Plain", "writes", 30.0, True),
            ],
        ),
    ],
)
def test_a_row_says_what_a_request_does(handler: type[ApiHandler], path: str, rows: list[Row]):
    assert list(_rows(URLSpec(path, handler), 30.0)) == rows


def test_the_command_lists_every_route_and_connects_to_nothing():
    """Probes, pages for operators and the document among them."""
    url = "postgresql://user@127.0.0.1:1/nowhere"
    table = run("routes", DATABASE_URL=url)
    rows = json.loads(run("routes", "--json", DATABASE_URL=url).out)

    assert (table.status, table.err) == (0, "")
    paths = [row["path"] for row in rows]
    assert {"/livez", "/readyz", "/openapi.json", "/stats", "/metrics", "/", "/docs"} <= set(paths)
    assert len(table.out.splitlines()) == len(rows) + 1


def test_in_production_the_pages_are_not_among_them():
    rows = json.loads(run("routes", "--json", ENVIRONMENT="production", DATABASE_URL="sqlite:///x.db").out)

    assert {"/", "/docs", "/stats"} & {row["path"] for row in rows} == set()
