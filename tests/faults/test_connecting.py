"""Hosts that accept a connection and send nothing: a machine that hangs, a proxy whose servers are gone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from conf import Settings
from db import Database
from db.engines.engine import make_url
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import Proxy
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("told_in_the_log", "garbage")]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A request outlasts the attempt at a connection."""
    http = settings.http.model_copy(update={"request_timeout_s": settings.database.connect_timeout_s + 2.0})
    return settings.model_copy(update={"http": http})


@pytest.fixture
def garbage() -> Iterator[None]:
    """psycopg keeps the socket of such an attempt in a circle of references."""
    yield
    gc.collect()


DRIVERS = ["postgresql", "postgresql+asyncpg", pytest.param("postgresql+psycopg", marks=pytest.mark.slow)]


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_a_connection_without_an_answer_is_a_503(service: Client, proxy: Proxy):
    proxy.freeze()

    answer = await service.get("/books")

    assert (answer.code, answer.json()["detail"]) == (503, "the database cannot be reached")
    assert "Retry-After" in answer.headers


@pytest.fixture
def two_hosts(settings: Settings, cluster: PostgresCluster) -> Settings:
    """The proxy's address first, then the server's own."""
    url = make_url(settings.database)
    hosts = (f"{url.host}:{url.port}", f"{cluster.host}:{cluster.port}")
    both = url.set(host=None, port=None, query={"host": hosts, "target_session_attrs": "read-write"})
    text = both.render_as_string(hide_password=False)
    database = settings.database.model_copy(update={"url": SecretStr(text), "connect_timeout_s": 2})
    return settings.model_copy(update={"database": database})


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_a_first_host_that_hangs_is_left_for_the_next(
    two_hosts: Settings, proxy: Proxy, make_application: MakeApp, serve: Serve
):
    database = Database(two_hosts.database)
    client = serve(make_application(two_hosts, database))
    proxy.freeze()

    answers = [
        await client.get("/books"),
        await client.post("/books", {"id": "0" * 32, "title": "a", "pages": 1}),
    ]

    await database.close()
    assert [answer.code for answer in answers] == [200, 201]
