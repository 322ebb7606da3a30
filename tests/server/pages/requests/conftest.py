"""Requests whose statements are recorded, and which are looked at."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.web import Application

from conf import OpsSettings
from tests.fixtures.server import Client, Serve
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER


@pytest.fixture
def ops_settings() -> OpsSettings:
    """Statements are recorded."""
    return OpsSettings(lag_s=None, record_requests=True)


def beside(seen: Seen, serve: Serve, routes: list[Any]) -> Client:
    """A client of further routes, whose requests are kept with those of the application."""
    names = ("database", "log_function", "error_page", "server_timing_counts")
    return serve(Application(routes, **{name: seen.application.settings.get(name) for name in names}))


async def kept(seen: Seen, request_id: str) -> dict[str, Any]:
    """The one request with an id, as JSON."""
    answer = await seen.client.get(f"/-/requests/{request_id}.json")
    assert answer.code == 200, answer.body
    [found] = answer.json()["requests"]
    return dict(found)


async def page_of(seen: Seen, request_id: str) -> str:
    """Its page."""
    answer = await seen.client.get(f"/-/requests/{request_id}", headers=BROWSER)
    assert answer.code == 200
    return answer.body.decode()
