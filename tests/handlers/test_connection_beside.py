"""A connection that is opened beside the session's, when the pool has none left."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler, log_request
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve
from tests.handlers import custody

pytestmark = pytest.mark.gen_test


def read_beside(session: Session) -> None:
    """A statement, and another one over a connection that the function takes from the pool itself."""
    session.execute(text("SELECT 1"))
    with Session(session.get_bind()) as beside:
        beside.execute(text("SELECT 1"))


class BesideHandler(ApiHandler):
    """Asks the pool for two connections, of one."""

    async def post(self) -> None:
        await self.run(read_beside, self.session)


@pytest.fixture
def database_settings(database_settings: DatabaseSettings) -> DatabaseSettings:
    """One connection of the writer."""
    return database_settings.model_copy(update={"pool_size": 1, "pool_timeout_s": 0.2})


@pytest.mark.every_driver
async def test_a_pool_that_is_exhausted_by_it_is_a_503_that_may_be_sent_again(
    serve: Serve, database: Database, expect_log: ExpectLog
):
    """As one whose slots are all taken: 503, Retry-After, and the next request is answered as ever."""
    app = Application([("/", BesideHandler)], database=database, log_function=log_request)
    client = serve(app)

    with expect_log("", "503 POST /"):
        answers = [await client.post("/", {}) for _ in range(2)]

    assert [answer.code for answer in answers] == [503, 503]
    assert [answer.headers["Retry-After"] for answer in answers] == ["1", "1"]
    assert custody.lent(database) == {}
