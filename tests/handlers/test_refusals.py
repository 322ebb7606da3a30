"""An error that a fresh handler answers, since the answer of the first one came too early."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable

import pytest
from sqlalchemy import event
from tornado.web import HTTPError

from db.errors import Conflict, OutcomeUnknown, RetryableConflict
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


class Once(ApiHandler):
    """Lets a client in once, and has each attempt refused as a conflict."""

    how = "raises"

    def prepare(self) -> Awaitable[None] | None:
        if USES:
            if self.how == "raises":
                raise HTTPError(429)
            self.redirect("/elsewhere")
            return None
        USES.append("a turn")
        return super().prepare()

    async def post(self) -> None:
        await self.run(add_note, self.session, text="undone")
        raise RetryableConflict("deadlock")


@pytest.mark.parametrize(("how", "status"), [("raises", 429), ("redirects", 302)])
async def test_an_attempt_that_prepare_ends_before_there_is_a_session_has_one_answer(
    how: str, status: int, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The first attempt's response was dropped; sent as well, it would answer the next request."""

    class Handler(Once):
        pass

    Handler.how = how
    client = mount(Handler)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    with expect_log("tornado.access", rf"^{status} POST / ", level=logging.INFO) as lines:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        sent = await reader.read()
    writer.close()
    await writer.wait_closed()

    second = 429 if how == "raises" else 302
    assert re.findall(rb"HTTP/1\.1 (\d+)", sent) == [b"%d" % status, b"%d" % second]
    assert b"X-Request-Id" in sent
    assert len(lines) == 1
    assert notes() == []


async def test_an_error_with_headers_of_its_own_gives_the_client_none_of_them(
    mount: Mount, expect_log: ExpectLog
):
    """As those of `urllib`, `requests` and `aiohttp`: they are an upstream's answer."""

    class UpstreamError(Exception):
        headers = {"Set-Cookie": "upstream=secret", "Content-Length": "3"}  # noqa: RUF012

    class Handler(ApiHandler):
        def post(self) -> None:
            raise UpstreamError

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", "UpstreamError"),
        expect_log("tornado.access", "^500 POST / "),
    ):
        answer = await client.post("/")

    assert answer.code == 500
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert "Set-Cookie" not in answer.headers
