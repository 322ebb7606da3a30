"""A function that opens a connection beside its session's, while none is left: 503, and the loop goes on."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.errors import PoolTimeout
from handlers import ApiHandler
from tests.fixtures.backends import Backend
from tests.fixtures.clock import own_time
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

POOL_TIMEOUT_S = 1.0

MARGIN_S = 0.5
"""What two busy cores may add."""


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One connection for each kind of work."""
    return DatabaseSettings(url=database_url, pool_size=1, reader_pool_size=1, pool_timeout_s=POOL_TIMEOUT_S)


def look_beside(session: Session) -> None:
    """Open a connection that is not the session's."""
    session.execute(text("SELECT 1"))
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    with engine.connect() as beside:
        beside.execute(text("SELECT 1"))


class Handler(ApiHandler):
    """Reads on the reader, writes on the writer, and does the same in both."""

    async def get(self) -> None:
        await self.run(look_beside, self.session)

    async def post(self) -> None:
        await self.run(look_beside, self.session)

    async def put(self) -> None:
        self.before_commit(look_beside)


async def longest_pause() -> float:
    """How long the loop was held up at most, until cancelled."""
    longest_s, last = 0.0, own_time()
    try:
        while True:
            await asyncio.sleep(0.01)
            now = own_time()
            longest_s, last = max(longest_s, now - last), now
    except asyncio.CancelledError:
        return longest_s


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_where_the_pool_is_full_a_connection_beside_the_sessions_is_503_and_the_loop_goes_on(
    backend: Backend, mount: Mount, expect_log: ExpectLog, method: str
):
    """At once in a greenlet; in a thread it waits, as long as its pool does."""
    client = mount(Handler)
    beating = asyncio.create_task(longest_pause())

    with expect_log("onfinish.handlers", "^503 .* beside"), expect_log("tornado.access", "^503 .* undone"):
        began = own_time()
        answer = await client.request(method, "/")
        took_s = own_time() - began
    beating.cancel()

    assert (answer.code, answer.json()["outcome"]) == (503, "not_applied")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "beside" in answer.json()["detail"]
    assert await beating < MARGIN_S
    assert took_s < (0 if backend.is_async else POOL_TIMEOUT_S) + MARGIN_S


async def test_a_scope_is_told_the_same(database: Database):
    """`session_scope()` of a script: the same error, which says what to do."""

    def script() -> None:
        with database.session_scope() as session:
            look_beside(session)

    with pytest.raises(PoolTimeout, match=r"all 1 connections .* beside"):
        await asyncio.to_thread(script)
