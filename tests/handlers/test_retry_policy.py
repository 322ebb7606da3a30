"""What a handler, or its application, adds to the retry policy: conflicts of two requests on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.errors import Conflict
from handlers import SessionHandler, SessionWebSocketHandler
from handlers.lifecycle.methods import TransactionMethods
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import NO_NOTE, Note, add_note, count_notes
from tests.handlers.test_websocket import ask, connected

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.parametrize(
        "backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
    ),
]

PATIENCE_S = 20


class Meeting:
    """Has two transactions read before either of them writes. Lives as long as a test."""

    def __init__(self) -> None:
        self.attempts: Counter[str] = Counter()
        self._both = asyncio.Barrier(2)

    async def begin(self, name: str) -> None:
        """An attempt begins; the first one waits for the other transaction's."""
        self.attempts[name] += 1
        if self.attempts[name] == 1:
            await asyncio.wait_for(self._both.wait(), PATIENCE_S)


Work = Callable[[TransactionMethods, Meeting, str], Any]


def find_note(session: Session, text: str) -> int | None:
    return session.scalars(select(Note.id).where(Note.text == text)).one_or_none()


async def get_or_create(handler: TransactionMethods, meeting: Meeting, name: str) -> str:
    """The note that both want; the second INSERT is refused when the first is committed."""
    found = await handler.run(find_note, handler.session, "wanted")
    await meeting.begin(name)
    if found is not None:
        return "found"
    await handler.run(add_note, handler.session, text="wanted")
    return "created"


async def be_the_only_one(handler: TransactionMethods, meeting: Meeting, name: str) -> str:
    """A note if there is none: a write skew, where neither transaction sees the other's row."""
    count = await handler.run(count_notes, handler.session)
    await meeting.begin(name)
    if count:
        return "found"
    await handler.run(add_note, handler.session, text=name)
    return "created"


async def by_requests(
    mount: Mount, work: Work, meeting: Meeting, settings: dict[str, Any], **own: Any
) -> Any:
    class Handler(SessionHandler):
        async def post(self, name: str) -> None:
            self.finish(await work(self, meeting, name))

    for name, value in own.items():
        setattr(Handler, name, value)
    client = mount(Handler, r"/(\w+)", **settings)
    answers = await asyncio.gather(client.post("/one"), client.post("/two"))
    return sorted(answer.body.decode() if answer.code == 200 else str(answer.code) for answer in answers)


async def by_messages(
    mount: Mount, work: Work, meeting: Meeting, settings: dict[str, Any], **own: Any
) -> Any:
    class Handler(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            self.write_message({"told": await work(self, meeting, str(message))})

    for name, value in own.items():
        setattr(Handler, name, value)
    port = mount(Handler, **settings).port
    async with connected(port) as one, connected(port) as two:
        answers = await asyncio.gather(ask(one, "one"), ask(two, "two"))
    return sorted(answer.get("told") or str(answer["status"]) for answer in answers)


both = pytest.mark.parametrize("by", [by_requests, by_messages])


@both
@pytest.mark.parametrize("where", ["handler", "application"])
async def test_an_error_that_is_named_is_retried(where: str, by: Any, mount: Mount, notes: Notes):
    """By the handler or by its application; the second attempt finds the row that refused the first one."""
    meeting = Meeting()
    settings: dict[str, Any] = {"retry_on": (Conflict,)} if where == "application" else {}
    own: dict[str, Any] = {"retry_on": (Conflict,)} if where == "handler" else {}

    told = await by(mount, get_or_create, meeting, settings, **own)

    assert told == ["created", "found"]
    assert sorted(meeting.attempts.values()) == [1, 2]
    assert notes() == ["wanted"]


@both
@pytest.mark.parametrize("own", [{}, {"retry_on": (Conflict,), "retry": False}], ids=["not named", "out"])
async def test_an_error_that_is_not_named_is_answered(
    own: dict[str, Any], by: Any, mount: Mount, notes: Notes
):
    meeting = Meeting()

    told = await by(mount, get_or_create, meeting, {}, **own)

    assert told == ["409", "created"]
    assert sorted(meeting.attempts.values()) == [1, 1]
    assert notes() == ["wanted"]


@both
async def test_under_serializable_a_write_skew_is_a_conflict_and_retried(by: Any, mount: Mount, notes: Notes):
    meeting = Meeting()

    told = await by(mount, be_the_only_one, meeting, {}, isolation="SERIALIZABLE")

    assert told == ["created", "found"]
    assert sorted(meeting.attempts.values()) == [1, 2]
    assert len(notes()) == 1


@both
async def test_under_the_engines_own_level_it_is_not_seen(by: Any, mount: Mount, notes: Notes):
    """The control of the test above."""
    told = await by(mount, be_the_only_one, Meeting(), {})

    assert told == ["created", "created"]
    assert len(notes()) == 2


async def test_an_error_that_is_named_is_retried_at_commit_too_and_answered_in_the_end(
    mount: Mount, notes: Notes
):
    attempts: list[int] = []

    class Handler(SessionHandler):
        retry_on = (Conflict,)

        async def post(self) -> None:
            attempts.append(len(attempts) + 1)
            await self.run(add_note, self.session, text="undone", parent_id=NO_NOTE)

    answer = await mount(Handler).post("/")

    assert answer.code == 409
    assert attempts == [1, 2, 3]
    assert notes() == []
