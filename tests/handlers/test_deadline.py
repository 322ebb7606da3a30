"""A request's deadline: 504 in time, the statement cancelled, nothing kept, everything back."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler
from tests.fixtures.clock import Stopwatch, Took, own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer, Client
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import add_note, list_texts, take_long
from tests.handlers.waiting import until

pytestmark = pytest.mark.gen_test

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

TIMEOUT_S = 0.25
MARGIN_S = 1.5
"""What cancelling, rolling back and answering may take, on two busy cores."""


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One slot each, so that what is not given back is missed at once."""
    return DatabaseSettings(url=database_url, pool_size=1)


async def timed(client: Client, method: str = "POST") -> tuple[Answer, Took]:
    """The answer, and how long it took."""
    began = Stopwatch()
    answer = await client.request(method, "/", b"" if method == "POST" else None, request_timeout=10)
    return answer, began.took()


def is_a_deadline_problem(answer: Answer) -> bool:
    """Whether the answer is the problem of a request whose time ran out, and says that nothing was kept."""
    problem = answer.json()
    return (
        answer.code == problem["status"] == 504
        and answer.headers["Content-Type"] == "application/problem+json"
        and problem["outcome"] == "not_applied"
        and "time" in problem["detail"]
    )


def statements(sql: RawSql, backend: str) -> int:
    """How many statements of the service PostgreSQL is at work on, and transactions it holds open."""
    if backend == "sqlite":
        return 0  # there is no server to ask; that the thread came back shows it
    rows = sql(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'onfinish' AND state <> 'idle'"
    )
    return int(rows[0]["n"])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_statement_that_takes_too_long_is_cancelled(
    method: str,
    backend: str,
    mount: Mount,
    database: Database,
    notes: Notes,
    sql: RawSql,
    expect_log: ExpectLog,
):
    """504 within the time and a margin; the statement is cancelled in the database, nothing is kept."""

    class Handler(ApiHandler):
        timeout_s = TIMEOUT_S

        async def get(self) -> None:
            await self.run(take_long, self.session)

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await self.run(take_long, self.session)

    client = mount(Handler)
    with expect_log("tornado.access", rf"^504 {method} / .* undone "):
        answer, took = await timed(client, method)
        assert lent(database) == {}

    assert is_a_deadline_problem(answer)
    assert took.wall_s >= TIMEOUT_S
    assert took.own_s < TIMEOUT_S + MARGIN_S
    assert statements(sql, backend) == 0
    assert notes() == []


async def test_after_a_deadline_the_next_request_works(mount: Mount, database: Database, notes: Notes):
    """The one connection of the pool is back, or replaced: it serves as before."""

    class Handler(ApiHandler):
        timeout_s = 0.8

        async def post(self) -> None:
            await self.run(add_note, self.session, text=self.get_argument("text"))
            if self.get_argument("text") == "long":
                await self.run(take_long, self.session)

    client = mount(Handler, log_function=lambda handler: None)
    codes = [(await client.post(f"/?text={text}")).code for text in ("long", "one", "two")]

    assert codes == [504, 200, 200]
    assert notes() == ["one", "two"]


async def test_a_handler_that_sleeps_is_stopped(
    backend: str, mount: Mount, database: Database, notes: Notes, sql: RawSql, expect_log: ExpectLog
):
    """It waits for something that is no database, with a transaction open: 504, rolled back."""

    class Handler(ApiHandler):
        timeout_s = TIMEOUT_S

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            await asyncio.sleep(10)

    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        answer, took = await timed(client)
        assert lent(database) == {}

    assert is_a_deadline_problem(answer)
    assert took.own_s < TIMEOUT_S + MARGIN_S
    assert statements(sql, backend) == 0
    assert notes() == []


async def test_a_handler_that_swallows_the_cancel_and_answers_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """``except BaseException`` and a 200 after the deadline: nothing was kept, so the answer is a 504."""

    class Handler(ApiHandler):
        timeout_s = TIMEOUT_S

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                self.finish("all is well")

    client = mount(Handler)
    with (
        expect_log("tornado.access", r"^504 POST / .* undone "),
        expect_log("onfinish.handlers", r"^504 ", required=False),
    ):
        answer, _ = await timed(client)
        assert lent(database) == {}

    assert is_a_deadline_problem(answer)
    assert notes() == []


async def test_a_handler_that_swallows_the_cancel_and_goes_on_is_answered_for(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Its connection is back at the deadline; its client has a 504 a second later, whatever it does."""
    went_on = asyncio.Event()

    class Handler(ApiHandler):
        timeout_s = TIMEOUT_S

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)
                held.append(lent(database))
                await asyncio.sleep(1.2)
                went_on.set()

    held: list[dict[str, int]] = []
    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        answer, took = await timed(client)

    assert is_a_deadline_problem(answer)
    assert took.own_s < TIMEOUT_S + 1 + MARGIN_S
    assert held == [{}]
    assert not went_on.is_set()
    await went_on.wait()
    assert notes() == []


async def test_a_function_that_computes_past_the_deadline_is_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Python in a thread cannot be stopped: its unit is undone when it ends, whatever it still wrote."""

    class Handler(ApiHandler):
        executor = "threads"
        timeout_s = TIMEOUT_S

        async def post(self) -> None:
            await self.run(self.compute)

        def compute(self) -> None:
            add_note(self.session, text="before")
            time.sleep(TIMEOUT_S + 0.2)
            add_note(self.session, text="after")

    client = mount(Handler)
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        answer, took = await timed(client)
        assert lent(database) == {}

    assert is_a_deadline_problem(answer)
    assert took.wall_s >= TIMEOUT_S + 0.2
    assert took.own_s < TIMEOUT_S + 0.2 + MARGIN_S
    assert notes() == []


async def test_a_lock_held_outside_does_not_hold_a_request_longer(
    backend: str, mount: Mount, database: Database, notes: Notes, sql: RawSql, expect_log: ExpectLog
):
    """Another process has locked the table, or the file: 504 in time, and back."""

    class Handler(ApiHandler):
        timeout_s = TIMEOUT_S

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client = mount(Handler)
    with sql.connect() as other, expect_log("tornado.access", r"^504 POST / .* undone "):
        cursor = other.cursor()
        cursor.execute("BEGIN IMMEDIATE" if backend == "sqlite" else "BEGIN")
        if backend == "postgresql":
            cursor.execute("LOCK TABLE notes IN SHARE MODE")
        answer, took = await timed(client)
        assert lent(database) == {}

    assert is_a_deadline_problem(answer)
    assert took.own_s < TIMEOUT_S + MARGIN_S
    assert notes() == []


async def test_a_slot_is_not_waited_for_past_the_deadline(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The only slot is taken: a waiter has an answer at its deadline, 503 or 504, and nothing kept."""
    hold, held = asyncio.Event(), asyncio.Event()

    class Handler(ApiHandler):
        async def post(self) -> None:
            if self.get_argument("hold", ""):
                await self.run(add_note, self.session, text="holds")
                held.set()
                await hold.wait()
            else:
                await self.run(add_note, self.session, text="waits")

    client = mount(Handler, request_timeout_s=1.2)
    holder = asyncio.ensure_future(client.post("/?hold=1"))
    await held.wait()
    await asyncio.sleep(0.6)  # so that the holder is past its deadline long before the other one
    began = own_time()
    asyncio.get_running_loop().call_later(0.1, hold.set)
    waiting = await client.post("/")
    took_s = own_time() - began

    assert (await holder).code == 200
    assert waiting.code == 200  # it came free in time
    assert took_s < 1.2

    hold.clear()
    held.clear()
    sleeper = asyncio.ensure_future(database_holder(database, hold, held))
    await held.wait()
    with (
        expect_log("tornado.access", r"^50[34] POST / .* undone "),
        expect_log("onfinish.handlers", r"^503 .*slots for writer", required=False),
    ):
        late, took = await timed(client)
    hold.set()
    await sleeper

    assert late.code in (503, 504)
    assert took.wall_s > 1.1
    assert took.own_s < 1.2 + MARGIN_S
    assert notes() == ["holds", "waits"]


async def database_holder(database: Database, hold: asyncio.Event, held: asyncio.Event) -> None:
    """Hold the writer's only slot until the event is set."""
    async with database.unit_of_work(label="holder") as unit:
        await unit.run(list_texts, unit.session)
        held.set()
        await hold.wait()


async def test_a_flush_at_the_end_is_held_to_the_deadline_too(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog, sql: RawSql, backend: str
):
    """What ``on_finish`` flushes before its COMMIT may wait for a lock: 504 in time, nothing kept."""

    class Handler(ApiHandler):
        timeout_s = TIMEOUT_S

        async def post(self) -> None:
            from tests.handlers.notes import Note

            self.session.add(Note(text="written"))
            self.finish("done")

    client = mount(Handler)
    with (
        sql.connect() as other,
        expect_log("tornado.access", r"^504 POST / .* undone "),
        expect_log("onfinish.handlers", r"^504 "),
    ):
        cursor = other.cursor()
        cursor.execute("BEGIN IMMEDIATE" if backend == "sqlite" else "BEGIN")
        if backend == "postgresql":
            cursor.execute("LOCK TABLE notes IN SHARE MODE")
        answer, took = await timed(client)
        assert lent(database) == {}

    assert is_a_deadline_problem(answer)
    assert took.own_s < TIMEOUT_S + MARGIN_S
    assert notes() == []


@on_postgresql
async def test_a_commit_that_does_not_answer_in_time_has_an_unknown_outcome(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A COMMIT that was sent is never cancelled: its connection is given up, and the answer says unknown.

    Here the server went on and kept it, which is why the answer must not claim otherwise.
    """

    class Handler(ApiHandler):
        timeout_s = 0.6

        async def post(self) -> None:
            await self.run(add_note, self.session, text="slow to commit")

    client = mount(Handler)
    with (
        expect_log("onfinish.db", r"POST Handler: .*connection is cut"),
        expect_log("onfinish.db", r"could not be rolled back", required=False),
        expect_log("onfinish.handlers", r"OutcomeUnknown"),
        expect_log("tornado.access", r"^503 POST / .* unknown "),
    ):
        answer, took = await timed(client)
        assert await all_back(database) == {}

    problem = answer.json()
    assert (answer.code, problem["outcome"]) == (503, "unknown")
    assert "Retry-After" in answer.headers
    assert took.wall_s > 0.6
    assert took.own_s < 2.2  # before the server answers
    await until(notes)
    assert notes() == ["slow to commit"]


@on_postgresql
async def test_a_commit_that_answers_soon_after_the_deadline_is_a_success(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The deadline passes while COMMIT is under way: it was kept, and the client is told so."""

    class Handler(ApiHandler):
        timeout_s = 1.7

        async def post(self) -> None:
            await self.run(add_note, self.session, text="slow to commit")

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO):
        answer, took = await timed(client)
        assert lent(database) == {}

    assert answer.code == 200
    assert took.wall_s > 2.0
    assert notes() == ["slow to commit"]


async def test_the_applications_limit_holds_for_all_and_a_handlers_own_wins(
    mount: Mount, database: Database, expect_log: ExpectLog
):
    """``request_timeout_s`` in the application's settings, ``timeout_s`` on the handler."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            await asyncio.sleep(0.4)

    class Patient(Handler):
        timeout_s = 5

    with expect_log("tornado.access", r"^504 GET / "):
        short, took = await timed(mount(Handler, request_timeout_s=0.1), "GET")
    long, _ = await timed(mount(Patient, request_timeout_s=0.1), "GET")

    assert (short.code, long.code) == (504, 200)
    assert took.own_s < 0.1 + MARGIN_S
