"""A handler's own `commit`, and what happens while it is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session
from tornado.web import HTTPError

from db import Database
from db.blocking import pause
from db.errors import Conflict, ConnectionLost, RetryableConflict, UsageError
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import add_note

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

COMMIT_S = 0.3


def commit_slowly(session: Session, reached: Callable[[], object] = lambda: None) -> None:
    """Have the session's COMMIT take a while; `reached` is called where it begins."""

    @event.listens_for(session, "before_commit")
    def wait(session: Session) -> None:
        reached()
        pause(COMMIT_S)


CONFLICTS = [RetryableConflict("deadlock"), ConnectionLost()]


@pytest.mark.parametrize("conflict", CONFLICTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("shape", ["a sibling", "a time-out"])
async def test_a_conflict_while_the_commit_is_under_way_runs_nothing_again_once_that_succeeds(
    shape: str, conflict: Exception, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Applied once; the conflict is what is answered, and the answer says that the work is applied."""
    attempts: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(f"attempt {len(attempts) + 1}")
            await self.run(add_note, self.session, text=attempts[-1])
            commit_slowly(self.session)
            if shape == "a sibling":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.commit())
                    group.create_task(self.conflict())
            else:
                try:
                    await asyncio.wait_for(self.commit(), COMMIT_S / 4)
                except TimeoutError:
                    raise conflict from None

        async def conflict(self) -> None:
            await asyncio.sleep(COMMIT_S / 4)
            raise conflict

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"^503 "),
        expect_log("tornado.access", r"^503 POST / .* kept "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (503, "applied")
    assert attempts == ["attempt 1"]
    assert notes() == ["attempt 1"]
    assert lent(database) == {}


async def test_a_conflict_while_the_commit_is_under_way_runs_it_again_where_that_conflicts_too(
    mount: Mount, database: Database, notes: Notes
):
    """Nothing of the first attempt is kept, so there is nothing to be done twice."""
    attempts: list[str] = []

    def refuse(session: Session) -> None:
        raise RetryableConflict("serialization")

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(f"attempt {len(attempts) + 1}")
            await self.run(add_note, self.session, text=attempts[-1])
            if len(attempts) == 1:
                commit_slowly(self.session)
                event.listen(self.session, "before_commit", refuse)
                try:
                    await asyncio.wait_for(self.commit(), COMMIT_S / 4)
                except TimeoutError:
                    raise RetryableConflict("deadlock") from None

    answer = await mount(Handler).post("/")

    assert answer.code == 200
    assert notes() == ["attempt 2"]
    assert lent(database) == {}


@pytest.mark.parametrize("error", [HTTPError(404), Conflict("no")], ids=["HTTPError", "Conflict"])
async def test_an_error_while_the_commit_is_under_way_says_that_the_work_is_applied(
    error: Exception, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The first answer could not know; it is given again when the commit has ended."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            commit_slowly(self.session)
            self.committing = asyncio.ensure_future(self.commit())
            await asyncio.sleep(COMMIT_S / 4)
            raise error

    client = mount(Handler)
    with expect_log("tornado.access", r"^40[49] POST / .* kept ", level=20):
        answer = await client.post("/")

    assert answer.code == (404 if isinstance(error, HTTPError) else 409)
    assert answer.json()["outcome"] == "applied"
    assert notes() == ["written"]


async def test_an_answer_given_while_the_commit_is_under_way_leaves_when_that_has_succeeded(
    mount: Mount, notes: Notes
):
    seen: list[list[str]] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            commit_slowly(self.session)
            self.committing = asyncio.ensure_future(self.commit())
            await asyncio.sleep(COMMIT_S / 4)
            seen.append(notes())
            self.set_status(201)

    answer = await mount(Handler).post("/")

    assert answer.code == 201
    assert (seen, notes()) == ([[]], ["written"]), "the answer left after the commit"


async def test_an_answer_given_while_the_commit_is_under_way_is_dropped_when_that_fails(
    mount: Mount, notes: Notes
):
    def refuse(session: Session) -> None:
        raise Conflict("not now")

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            commit_slowly(self.session)
            event.listen(self.session, "before_commit", refuse)
            self.committing = asyncio.ensure_future(self.commit())
            self.committing.add_done_callback(lambda task: task.exception())
            await asyncio.sleep(COMMIT_S / 4)
            self.set_status(201)

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert notes() == []


async def test_an_answer_is_dropped_where_the_commit_has_failed_and_its_caller_was_cancelled(
    mount: Mount, notes: Notes
):
    """Its error has no other place: the caller that would have raised it is gone."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            refused = asyncio.Event()
            loop = asyncio.get_running_loop()

            def refuse(session: Session) -> None:
                loop.call_soon_threadsafe(refused.set)
                raise Conflict("on purpose")

            await self.run(add_note, self.session, text="written")
            self.before_commit(refuse)
            caller = asyncio.create_task(self.commit())
            await asyncio.sleep(0)
            caller.cancel()
            await refused.wait()
            await asyncio.sleep(COMMIT_S)  # for the COMMIT to have failed: else the answer waits for it
            self.write({})

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.json()["detail"]) == (409, "on purpose")
    assert notes() == []


async def test_a_handler_that_ends_without_an_answer_while_its_commit_is_under_way_says_how_that_ended(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A callback was to answer, and the request's task has ended: 500, and the work is applied."""

    class Handler(ApiHandler):
        def prepare(self) -> None:
            super().prepare()
            self._auto_finish = False

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            commit_slowly(self.session)
            self.committing = asyncio.ensure_future(self.commit())
            await asyncio.sleep(COMMIT_S / 4)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"ended without a response"),
        expect_log("tornado.access", r"^500 POST / .* kept "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "applied")
    assert notes() == ["written"]
    assert await all_back(database) == {}


# -- before_commit()


async def test_a_function_before_the_commit_is_called_by_an_early_commit(mount: Mount, notes: Notes):
    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.before_commit(add_note, text="before the commit")
            await self.commit()
            self.set_status(201)

    answer = await mount(Handler).post("/")

    assert answer.code == 201
    assert notes() == ["written", "before the commit"]


async def test_what_a_function_before_an_early_commit_raises_undoes_the_work(mount: Mount, notes: Notes):
    def refuse(session: Session) -> None:
        raise Conflict("not now")

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.before_commit(refuse)
            await self.commit()
            self.set_status(201)

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert notes() == []


@pytest.mark.parametrize("when", ["after the commit", "while it is under way"])
async def test_a_function_before_the_commit_cannot_be_registered_once_that_has_begun(
    when: str, mount: Mount, notes: Notes
):
    """It would never be called: an error at the line that registers it."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            committing = asyncio.ensure_future(self.commit())
            await (committing if when == "after the commit" else asyncio.sleep(0))
            with pytest.raises(
                UsageError, match=r"POST Handler .*before_commit\(\) was called after commit\(\)"
            ):
                self.before_commit(add_note, text="too late")
            await committing

    answer = await mount(Handler).post("/")

    assert answer.code == 200
    assert notes() == ["written"]


async def test_a_client_that_left_while_the_commit_was_under_way_is_no_deadline(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """499 in the access line, and the work is kept; 504 was said of a deadline that was far away."""

    class Handler(ApiHandler):
        cancel_on_disconnect = True

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            commit_slowly(self.session)
            async with asyncio.TaskGroup() as group:
                group.create_task(self.commit())
                group.create_task(self.fail_when_the_client_is_gone())

        async def fail_when_the_client_is_gone(self) -> None:
            await asyncio.sleep(COMMIT_S * 2 / 3)
            raise Conflict("on purpose")

    client = mount(Handler)
    with expect_log("tornado.access", r"^499 POST / .* kept ", level=logging.INFO):
        with pytest.raises(Exception, match="Timeout"):
            await client.post("/", request_timeout=COMMIT_S / 3)
        assert await all_back(database, within_s=5) == {}
        await asyncio.sleep(0.1)

    assert notes() == ["written"]
