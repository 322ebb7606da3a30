"""Work for after the settling: `commit`, `on_commit` and `afterwards`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tornado import gen
from tornado.web import HTTPError

from conf import DatabaseSettings
from db import AsyncUnitOfWork, Database
from db.errors import Conflict, RetryableConflict, SessionSettled
from handlers import ApiHandler
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.slots import all_slots
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import NO_NOTE, add_note, list_texts, take_long
from tests.handlers.waiting import until

pytestmark = pytest.mark.gen_test


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One slot each: work afterwards has to do with the slot that is there."""
    return DatabaseSettings(url=database_url, pool_size=1, pool_timeout_s=1)


# -- commit()


async def test_an_early_commit_keeps_at_once_and_gives_the_connection_back(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """For slow work outside of the database that follows: nothing is held while it goes on."""
    seen: list[object] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.commit()
            seen.extend([notes(), lent(database)])
            self.set_status(201)

    client = mount(Handler)
    with expect_log("tornado.access", r"^201 POST / .* kept ", level=logging.INFO):
        answer = await client.post("/")

    assert answer.code == 201
    assert seen == [["written"], {}]


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPError(404), 404), (Conflict("no"), 409), (KeyError(1), 500)]
)
async def test_an_error_after_an_early_commit_says_that_the_work_was_applied(
    error: Exception, status: int, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The one case in which a 4xx or 5xx has kept something: the answer says so, and the access line."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.commit()
            raise error

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"KeyError", required=status == 500),
        expect_log("tornado.access", rf"^{status} POST / .* kept ", level=logging.INFO),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (status, "applied")
    assert notes() == ["written"]


async def test_an_early_commit_that_fails_is_an_error_like_any_other(
    mount: Mount, database: Database, notes: Notes
):
    """Where the handler does not catch it: 409, nothing kept, and nothing said to be applied."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            await self.commit()

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert notes() == []


async def test_an_early_commit_that_failed_and_was_caught_is_no_success(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A handler that catches the refusal and answers 200 would tell its client a lie."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            try:
                await self.commit()
            except Conflict:
                self.finish("done")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"undone already"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []


async def test_after_an_early_commit_the_session_is_settled(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """It cannot be used any more, by itself or through `run`."""
    errors: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.commit()
            with pytest.raises(SessionSettled, match="POST Handler"):
                self.session.add(object())
            with pytest.raises(SessionSettled, match="POST Handler"):
                await self.run(list_texts, self.session)
            errors.append("both")

    await mount(Handler).post("/")

    assert errors == ["both"]
    assert notes() == ["written"]


# -- on_commit()


async def test_after_the_commit_functions_are_called_in_order(mount: Mount, notes: Notes):
    """Plain and async ones, with their arguments, when the work is in the database."""
    calls: list[object] = []

    async def send_mail(to: str) -> None:
        await asyncio.sleep(0)
        calls.append((to, notes()))

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.on_commit(calls.append, "plain")
            self.on_commit(send_mail, to="ada")
            self.on_commit(calls.append, "last")
            await self.run(add_note, self.session, text="written")

    await mount(Handler).post("/")
    await until(lambda: len(calls) == 3)

    assert calls == ["plain", ("ada", ["written"]), "last"]


async def test_a_function_after_the_commit_may_ask_for_another(mount: Mount, notes: Notes):
    called: list[str] = []
    both = asyncio.Event()

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.on_commit(self.first)

        async def first(self) -> None:
            called.append("first")
            self.on_commit(self.second)

        async def second(self) -> None:
            called.append("second")
            both.set()

    client = mount(Handler)
    await client.post("/")
    await both.wait()

    assert called == ["first", "second"]
    assert notes() == ["written"]


@pytest.mark.every_driver("sqlite+aiosqlite", "postgresql+asyncpg")
async def test_a_function_after_the_commit_that_blocks_stops_no_request(
    mount: Mount, database: Database, notes: Notes
):
    """A plain one runs in a thread, with the request's context variables; an async one on the loop.

    The one that follows waits for it, and so does a server that ends.
    """
    word = ContextVar("word", default="none")
    go_on = threading.Event()
    ran: list[object] = []

    def block(name: str) -> None:
        go_on.wait(10)
        ran.append((name, word.get(), threading.current_thread() is threading.main_thread()))

    async def follow(name: str) -> None:
        ran.append((name, word.get(), threading.current_thread() is threading.main_thread()))

    class Handler(ApiHandler):
        async def post(self) -> None:
            word.set("posted")
            self.on_commit(block, name="plain")
            self.on_commit(partial(follow, "async"))
            await self.run(add_note, self.session, text="written")

        async def get(self) -> None:
            self.write_json(await self.run(list_texts, self.session))

    client = mount(Handler)
    await client.post("/")
    while_it_blocks = await client.get("/", request_timeout=5)
    is_idle = await database.idle(0.05)
    go_on.set()

    assert while_it_blocks.json() == ["written"]
    assert (is_idle, await database.idle(5)) == (False, True)
    assert ran == [("plain", "posted", False), ("async", "posted", True)]


@pytest.mark.parametrize("kind", ["a lambda that returns a coroutine", "a method", "Tornado's", "an object"])
async def test_an_async_function_of_any_kind_runs_on_the_loop_after_the_commit(
    kind: str, mount: Mount, notes: Notes
):
    calls: list[asyncio.AbstractEventLoop] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            functions: dict[str, Callable[[], object]] = {
                "a lambda that returns a coroutine": lambda: self.send(),
                "a method": self.send,
                "Tornado's": self.send_as_before,
                "an object": self,
            }
            self.on_commit(functions[kind])
            await self.run(add_note, self.session, text="written")

        async def send(self) -> None:
            calls.append(asyncio.get_running_loop())

        @gen.coroutine
        def send_as_before(self) -> Generator[Any, Any, None]:
            yield gen.sleep(0)
            calls.append(asyncio.get_running_loop())

        __call__ = send

    await mount(Handler).post("/")
    await until(lambda: calls)

    assert calls == [asyncio.get_running_loop()]


async def test_a_slow_function_after_the_commit_delays_no_request(
    mount: Mount, database: Database, notes: Notes
):
    """The answer has left and the slot is back when it begins."""
    go_on = asyncio.Event()

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.on_commit(go_on.wait)

    answer = await mount(Handler).post("/", request_timeout=5)
    assert lent(database) == {}
    go_on.set()

    assert answer.code == 200


@pytest.mark.parametrize("end", ["raises", "status", "commit fails"])
async def test_after_a_rollback_no_function_is_called(end: str, mount: Mount, notes: Notes):
    """However it came to that."""
    calls: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.on_commit(calls.append, "called")
            await self.run(
                add_note, self.session, text="written", parent_id=NO_NOTE if end == "commit fails" else None
            )
            if end == "raises":
                raise HTTPError(409)
            if end == "status":
                self.set_status(409)

    answer = await mount(Handler).post("/")
    await asyncio.sleep(0.05)

    assert answer.code == 409
    assert calls == []
    assert notes() == []


async def test_what_a_function_after_the_commit_raises_is_logged(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The work is kept, the answer stands, the other functions are called."""
    calls: list[str] = []

    def fail() -> None:
        raise OSError("no mail today")

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.on_commit(fail)
            self.on_commit(calls.append, "the other")
            await self.run(add_note, self.session, text="written")

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"POST Handler .*function failed; the work stays committed"):
        answer = await client.post("/")
        await asyncio.sleep(0.05)

    assert answer.code == 200
    assert calls == ["the other"]
    assert notes() == ["written"]


async def test_only_the_attempt_that_was_kept_calls_its_functions(mount: Mount, notes: Notes):
    """What a dropped attempt had registered is dropped with it."""
    calls: list[int] = []
    attempts: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(1)
            self.on_commit(calls.append, len(attempts))
            await self.run(add_note, self.session, text="written")
            if len(attempts) < 3:
                raise RetryableConflict("deadlock")

    await mount(Handler).post("/")
    await asyncio.sleep(0.05)

    assert calls == [3]


async def test_around_an_early_commit_functions_are_called_too(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Those registered before it at once, those registered after it at the end, and each once.

    An error that comes later changes nothing: the work is committed.
    """
    calls: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.on_commit(calls.append, "before")
            await self.run(add_note, self.session, text="written")
            await self.commit()
            calls.append("committed")
            self.on_commit(calls.append, "after")
            raise HTTPError(404)

    await mount(Handler).post("/")
    await asyncio.sleep(0.05)

    assert calls == ["before", "committed", "after"]


@pytest.mark.parametrize("early", [True, False])
async def test_a_function_whose_own_wait_was_cancelled_keeps_the_others_from_nothing(
    early: bool, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Something that it awaited was cancelled, and not the request: logged, and the next one is called."""
    calls: list[str] = []

    async def wait_for_what_is_cancelled() -> None:
        waiting = asyncio.ensure_future(asyncio.sleep(5))
        asyncio.get_running_loop().call_soon(waiting.cancel)
        await waiting

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.on_commit(wait_for_what_is_cancelled)
            self.on_commit(calls.append, "the next one")
            await self.run(add_note, self.session, text="written")
            if early:
                await self.commit()

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"an on_commit function failed; the work stays committed"):
        answer = await client.post("/")
        await until(lambda: calls)

    assert answer.code == 200
    assert calls == ["the next one"]


# -- in_new_transaction()


def add_audit(session: Session, *, text: str) -> None:
    """The row that must survive a rollback."""
    add_note(session, text=text)


@pytest.mark.every_driver
@pytest.mark.parametrize(("status", "kept"), [(201, True), (404, False)])
async def test_what_hangs_afterwards_is_cancelled_and_the_request_is_told_as_it_ended(
    status: int,
    kept: bool,
    mount: Mount,
    database: Database,
    notes: Notes,
    sql: RawSql,
    backend: str,
    expect_log: ExpectLog,
    monkeypatch: pytest.MonkeyPatch,
):
    """At the deadline its statement ends in the database; the work before it is what the answer tells of.

    The access line says the same, and so does what the observer counts.
    """
    monkeypatch.setattr("db.work.async_unit_of_work.FOLLOW_UP_S", 0.2)
    outcomes: list[tuple[str, str]] = []
    ended = database.observer.ended

    def note(unit: AsyncUnitOfWork) -> None:
        outcomes.append((unit.label, unit.outcome.value))
        ended(unit)

    monkeypatch.setattr(database.observer, "ended", note)

    class Handler(ApiHandler):
        timeout_s = 1.0

        async def post(self) -> None:
            self.in_new_transaction(take_long)
            self.in_new_transaction(add_audit, text="has had no time left")
            await self.run(add_note, self.session, text="written")
            self.set_status(status)

    client = mount(Handler)
    word = "kept" if kept else "undone"
    began = own_time()
    with (
        expect_log("onfinish.db", r"POST Handler afterwards: failed"),
        expect_log("onfinish.db", r"thrown away|cut", required=False),
        expect_log("tornado.access", rf"^{status} POST / .* {word} ", level=logging.INFO),
    ):
        answer = await client.post("/")
        assert await all_back(database) == {}

    assert answer.code == status
    assert own_time() - began < 5
    assert notes() == (["written"] if kept else [])
    assert outcomes == [("POST Handler afterwards", "undone")] * 2 + [("POST Handler", word)]
    if backend == "postgresql":
        sleeping = "state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%pg_sleep(60)%'"
        assert sql(f"SELECT count(*) AS n FROM pg_stat_activity WHERE {sleeping}") == [{"n": 0}]


@pytest.mark.parametrize(("end", "kept"), [("kept", True), ("raises", False), ("commit fails", False)])
async def test_what_is_done_afterwards_is_kept_whatever_became_of_the_request(
    end: str, kept: bool, mount: Mount, database: Database, notes: Notes
):
    """In a unit of work of its own, with a session of its own, committed before the answer leaves."""
    sessions: list[Session] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            sessions.append(self.session)
            self.in_new_transaction(self.note_it, text="audit")
            await self.run(
                add_note, self.session, text="written", parent_id=NO_NOTE if end == "commit fails" else None
            )
            if end == "raises":
                raise HTTPError(409)

        def note_it(self, session: Session, *, text: str) -> None:
            sessions.append(session)
            add_audit(session, text=text)

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert answer.code == (200 if kept else 409)
    assert notes() == (["written", "audit"] if kept else ["audit"])
    assert sessions[0] is not sessions[1]


async def test_what_is_done_afterwards_follows_a_read(mount: Mount, database: Database, notes: Notes):
    """A GET may note that it was asked: the read-only unit is settled first, then the writer's turn comes."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            self.in_new_transaction(add_audit, text="was read")
            self.write_json(await self.run(list_texts, self.session))

    client = mount(Handler)
    first = await client.get("/")
    assert lent(database) == {}

    assert first.json() == []
    assert notes() == ["was read"]


async def test_what_is_done_afterwards_follows_a_request_that_opened_nothing(mount: Mount, notes: Notes):
    """Refused before its first statement: the audit row is there all the same."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.in_new_transaction(add_audit, text="tried to")
            raise HTTPError(403)

    answer = await mount(Handler).post("/")

    assert answer.code == 403
    assert notes() == ["tried to"]


async def test_what_follows_a_unit_that_worked_waits_where_newcomers_are_refused(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """As many wait as may: no audit row is lost to them, and the next newcomer is 503 at once."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            self.in_new_transaction(add_audit, text="was read")
            self.write_json(await self.run(list_texts, self.session))

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client, limiter = mount(Handler), database.writer.limiter
    limiter.waiting_max = 0
    held = all_slots(limiter)
    reading = asyncio.ensure_future(client.get("/"))
    await until(lambda: limiter.waiting == 1)

    with expect_log("onfinish.handlers", "^503 .* 1 callers wait"), expect_log("tornado.access", "^503 POST"):
        refused = await client.post("/")
    still_waits = limiter.waiting
    held.close()

    assert (await reading).code == 200
    assert (refused.code, refused.headers["Retry-After"], still_waits) == (503, "1", 1)
    assert notes() == ["was read"]


async def test_what_follows_a_request_that_was_refused_is_a_newcomer_itself(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Else the queue would grow by what was not admitted to it, and its 503 would be late."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.in_new_transaction(add_audit, text="tried to")
            await self.run(add_note, self.session, text="written")

    client, limiter = mount(Handler), database.writer.limiter
    limiter.waiting_max = 0
    with (
        all_slots(limiter),
        expect_log("onfinish.handlers", "^503 .* 0 callers wait"),
        expect_log("onfinish.db", "POST Handler afterwards: failed"),
        expect_log("tornado.access", "^503 POST"),
    ):
        answer = await client.post("/")

    assert (answer.code, limiter.refused) == (503, 2)
    assert notes() == []


async def test_what_is_done_afterwards_follows_an_early_commit(
    mount: Mount, database: Database, notes: Notes
):
    """The slot has been released long ago; another one is taken for it."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.in_new_transaction(add_audit, text="audit")
            await self.run(add_note, self.session, text="written")
            await self.commit()

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert answer.code == 200
    assert notes() == ["written", "audit"]


async def test_what_is_done_afterwards_follows_a_deadline(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The audit row of a request whose time ran out."""

    class Handler(ApiHandler):
        timeout_s = 0.2

        async def post(self) -> None:
            self.in_new_transaction(add_audit, text="took too long")
            await self.run(add_note, self.session, text="written")
            await asyncio.sleep(5)

    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        answer = await client.post("/")
        assert await all_back(database) == {}

    assert answer.code == 504
    assert notes() == ["took too long"]


@pytest.mark.parametrize("parent_id", [None, NO_NOTE])
async def test_what_fails_afterwards_is_logged_and_changes_nothing(
    parent_id: int | None, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """It raises, or its own COMMIT is refused: undone by itself; the request's work and answer stand.

    The other functions get their turn.
    """

    def fail(session: Session) -> None:
        add_note(session, text="half an audit", parent_id=parent_id)
        if parent_id is None:
            raise OSError("in the middle")

    class Handler(ApiHandler):
        async def post(self) -> None:
            self.in_new_transaction(fail)
            self.in_new_transaction(add_audit, text="audit")
            await self.run(add_note, self.session, text="written")

    client = mount(Handler)
    with expect_log("onfinish.db", r"POST Handler afterwards: failed"):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 200
    assert notes() == ["written", "audit"]


async def test_an_attempt_that_is_run_again_does_nothing_afterwards(
    mount: Mount, database: Database, notes: Notes
):
    """One request, one audit row: that of the attempt that was answered."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(1)
            self.in_new_transaction(add_audit, text=f"audit of attempt {len(attempts)}")
            await self.run(add_note, self.session, text="written")
            if len(attempts) < 3:
                raise RetryableConflict("deadlock")

    await mount(Handler).post("/")
    assert lent(database) == {}

    assert notes() == ["written", "audit of attempt 3"]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_an_attempt_whose_commit_was_a_conflict_does_nothing_afterwards(
    mount: Mount, database: Database, notes: Notes, sql: RawSql
):
    """The same where the conflict shows only at COMMIT."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(1)
            self.in_new_transaction(add_audit, text=f"audit of attempt {len(attempts)}")
            await self.run(add_note, self.session, text="conflicts once")

    await mount(Handler).post("/")
    assert lent(database) == {}

    assert notes() == ["conflicts once", "audit of attempt 2"]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_an_early_commit_whose_answer_never_came_says_unknown(
    mount: Mount, database: Database, sql: RawSql, expect_log: ExpectLog
):
    """Its connection is cut at the deadline: the outcome is unknown, to answer and access line alike."""

    class Handler(ApiHandler):
        timeout_s = 0.6

        async def post(self) -> None:
            await self.run(add_note, self.session, text="slow to commit")
            await self.commit()

    client = mount(Handler)
    with (
        expect_log("onfinish", r"cut|OutcomeUnknown|could not be rolled back|not known"),
        expect_log("tornado.access", r"^50[34] POST / .* unknown "),
    ):
        answer = await client.post("/")
        assert await all_back(database) == {}

    assert answer.code in (503, 504)
    assert answer.json()["outcome"] == "unknown"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_an_early_commit_that_the_deadline_met_is_told_as_it_ended(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The handler is cancelled while its COMMIT is under way, which succeeds: 504, and applied."""
    calls: list[str] = []

    class Handler(ApiHandler):
        timeout_s = 1.9

        async def post(self) -> None:
            self.on_commit(calls.append, "called")
            await self.run(add_note, self.session, text="slow to commit")
            await self.commit()

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"^504 .*after its work had been applied"),
        expect_log("tornado.access", r"^504 POST / .* kept "),
    ):
        answer = await client.post("/")
        assert await all_back(database) == {}

    assert (answer.code, answer.json()["outcome"]) == (504, "applied")
    assert "nothing" not in answer.json()["detail"]
    assert notes() == ["slow to commit"]
    assert calls == ["called"]


async def test_a_deadline_after_an_early_commit_says_that_the_work_was_applied(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The slow work that follows takes too long: 504, and not a word of nothing having been kept."""

    class Handler(ApiHandler):
        timeout_s = 0.6

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.commit()
            await asyncio.sleep(5)

    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* kept "):
        answer = await client.post("/")
        assert await all_back(database) == {}

    assert (answer.code, answer.json()["outcome"]) == (504, "applied")
    assert "nothing" not in answer.json()["detail"]
    assert notes() == ["written"]


# -- too late


@pytest.mark.every_driver
@pytest.mark.parametrize("register", ["before_commit", "on_commit", "in_new_transaction"])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_registered_after_the_answer_is_an_error(
    method: str, late: bool, register: str, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """It was dropped without a word, behind a 201: the work may be settled by then."""
    called: list[str] = []

    class Handler(ApiHandler):
        async def get(self) -> None:
            if method == "POST":
                await self.run(add_note, self.session, text="written")
            self.set_status(201)
            self.finish()
            if late:
                await asyncio.sleep(0.1)
            getattr(self, register)(lambda *session: called.append("called"))

        post = get

    client = mount(Handler)
    with expect_log(
        "onfinish.handlers", rf"UsageError: {method} Handler .*{register}\(\) was called after finish"
    ):
        answer = await client.request(method, "/", b"" if method == "POST" else None)
        await asyncio.sleep(0.2)

    assert answer.code == 201
    assert called == []
    assert notes() == (["written"] if method == "POST" else [])
