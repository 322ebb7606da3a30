"""Many requests at once through a small pool."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import add_note, list_texts

pytestmark = pytest.mark.gen_test

REQUESTS = 200
PLACES = 5


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """A pool of five, and time enough for two hundred on two busy cores."""
    return DatabaseSettings(url=database_url, pool_size=PLACES, pool_timeout_s=20)


async def test_overlapping_requests_are_all_answered_and_see_nothing_of_each_other(
    mount: Mount, database: Database, notes: Notes
):
    """200 at once through 5 connections: all 2xx; each sees its own rows and whole ones of others.

    No thread ever waits in the pool, where waiting is an error here: a unit that waits, waits for a slot.
    """
    open_sessions: dict[int, str] = {}
    waited: list[int] = []
    for endpoint in (database.writer, database.reader):
        assert isinstance(endpoint.engine.pool, QueuePool)
        endpoint.engine.pool._timeout = 0

    class Handler(ApiHandler):
        async def post(self, number: str) -> None:
            session: Session = self.session
            assert open_sessions.setdefault(id(session), number) == number
            await self.run(add_note, session, text=f"{number} first")
            waited.append(database.writer.limiter.waiting)
            await asyncio.sleep(0)
            await self.run(add_note, session, text=f"{number} second")
            seen = await self.run(list_texts, session)
            self.set_status(201)
            self.write_json([text for text in seen if text.startswith(f"{number} ")], 201)
            others = {text.split()[0] for text in seen} - {number}
            for other in others:
                assert [text for text in seen if text.startswith(f"{other} ")] == [
                    f"{other} first",
                    f"{other} second",
                ]

        async def get(self, number: str) -> None:
            seen = await self.run(list_texts, self.session)
            assert len(seen) % 2 == 0, "half of a request was seen"
            self.write_json(len(seen))

        def on_finish(self) -> None:
            if self._transaction is not None:
                open_sessions.pop(id(self.session), None)
            super().on_finish()

    client = mount(Handler, r"/(\d+)", log_function=lambda handler: None)
    answers = await asyncio.gather(
        *(
            client.post(f"/{number}", request_timeout=25)
            if number % 4
            else client.get(f"/{number}", request_timeout=25)
            for number in range(REQUESTS)
        )
    )
    assert lent(database) == {}

    codes = [answer.code for answer in answers]
    assert codes == [201 if number % 4 else 200 for number in range(REQUESTS)]
    for number, answer in enumerate(answers):
        if number % 4:
            assert answer.json() == [f"{number} first", f"{number} second"]
    assert len(notes()) == REQUESTS * 3 // 4 * 2
    assert max(waited) > REQUESTS // 4, "the requests did not overlap"
