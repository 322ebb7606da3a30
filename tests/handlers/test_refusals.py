"""An error that a fresh handler answers, since the answer of the first one came too early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from sqlalchemy import event
from tornado.web import HTTPError

from db.errors import Conflict, OutcomeUnknown
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import add_note

pytestmark = pytest.mark.gen_test

USES: list[str] = []


@pytest.fixture(autouse=True)
def nothing_used() -> None:
    USES.clear()


class Counting(ApiHandler):
    """Lets each client in once: a rate limit, or a nonce."""

    def prepare(self) -> Awaitable[None] | None:
        if USES:
            raise HTTPError(429)
        USES.append("a turn")
        return super().prepare()


class Waiting(ApiHandler):
    """The same, asked of another service, before the session is there."""

    async def prepare(self) -> None:
        preparing = super().prepare()
        if preparing is not None:
            await preparing
        await asyncio.sleep(0)
        if USES:
            raise HTTPError(429)
        USES.append("a turn")


class Redirecting(ApiHandler):
    """Answers a second request by itself, with a success."""

    def prepare(self) -> Awaitable[None] | None:
        if USES:
            self.finish("welcome back")
            return None
        USES.append("a turn")
        return super().prepare()


@pytest.mark.parametrize("base", [Counting, Waiting, Redirecting])
@pytest.mark.parametrize("applied", [True, False])
async def test_what_a_subclass_does_in_prepare_is_done_once_and_the_outcome_is_the_first_ones(
    applied: bool, base: type[ApiHandler], mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The error of the first attempt is what is told, with what became of its work."""

    class Handler(base):  # type: ignore[valid-type, misc]
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            if applied:
                self.committing = asyncio.ensure_future(self.commit())
                await asyncio.sleep(0)
                raise Conflict("refused")
            event.listen(self.session, "before_commit", self.refuse)

        def refuse(self, session: object) -> None:
            raise Conflict("refused")

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.json()["detail"]) == (409, "refused")
    assert answer.json()["outcome"] == ("applied" if applied else "not_applied")
    assert notes() == (["written"] if applied else [])
    assert USES == ["a turn"]


async def test_an_unknown_outcome_stays_unknown_where_prepare_would_raise_again(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """A function before the commit works with another database, and loses it at its COMMIT."""

    def lose(session: object) -> None:
        raise ExceptionGroup("two databases", [OutcomeUnknown()])

    class Handler(Counting):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.before_commit(lose)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"OutcomeUnknown"),
        expect_log("tornado.access", r"^503 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (503, "unknown")
    assert USES == ["a turn"]
