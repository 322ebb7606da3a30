"""A host that accepts a connection and sends nothing, as a proxy whose servers are gone."""

from __future__ import annotations

import pytest

from conf import Settings
from tests.fixtures.proxies import Proxy
from tests.fixtures.server import Client

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("told_in_the_log")]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A request outlasts the attempt at a connection."""
    http = settings.http.model_copy(update={"request_timeout_s": settings.database.connect_timeout_s + 2.0})
    return settings.model_copy(update={"http": http})


@pytest.mark.parametrize("drivername", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"])
async def test_a_connection_without_an_answer_is_a_503(service: Client, proxy: Proxy):
    proxy.freeze()

    answer = await service.get("/books")

    assert (answer.code, answer.json()["detail"]) == (503, "the database cannot be reached")
    assert "Retry-After" in answer.headers
