"""Twins: requests under one Idempotency-Key at once wait for one another before they take a slot."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from tornado.web import Application, HTTPError

from conf import DatabaseSettings
from db import Database
from handlers import ApiHandler
from handlers.idempotency import IdempotentHandler
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer, Client, Serve
from tests.fixtures.slots import all_slots
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import add_note, count_notes
from tests.handlers.waiting import until
from tests.handlers.wire import Wire

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

# SQLite has one writer, for which any write waits.
SERVER = pytest.mark.parametrize(
    "backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
)

PLACES = 3
TWINS = 8


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    return DatabaseSettings(url=database_url, pool_size=PLACES, pool_timeout_s=1)


class Gate:
    """Holds the first request up in the middle of its work. Lives as long as a test."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.opened = asyncio.Event()
        self.calls = 0
        self.ends = "kept"

    @property
    def handler(self) -> type[IdempotentHandler]:
        """A handler that passes through it."""
        gate = self

        class Handler(IdempotentHandler, ApiHandler):
            @property
            def timeout_s(self) -> float:  # type: ignore[override]
                return float(self.request.headers.get("X-Timeout-S", 30))

            async def post(self) -> None:
                gate.calls += 1
                await self.run(count_notes, self.session)
                if gate.calls == 1:
                    gate.begun.set()
                    await gate.opened.wait()
                    if gate.ends == "refused":
                        raise HTTPError(409)
                await self.run(add_note, self.session, text=self.request.headers["Idempotency-Key"])
                self.set_status(201)
                self.write(f"call {gate.calls}")

        return Handler


@pytest.fixture
def gate() -> Gate:
    return Gate()


def ask(client: Client, key: str = "k", **headers: str) -> asyncio.Task[Answer]:
    return asyncio.ensure_future(client.post("/", headers={"Idempotency-Key": key, **headers}))


def is_queued(database: Database, waiters: int) -> bool:
    """Whether that many requests wait for their turn."""
    return sum(len(queue) - 1 for queue in database.turns._queues.values()) == waiters


async def test_twins_leave_the_slots_to_others(mount: Mount, notes: Notes, database: Database, gate: Gate):
    """One slot is taken for all of them, and they get the first one's answer, one after another."""
    client = mount(gate.handler)
    twins = [ask(client)]
    await gate.begun.wait()
    twins += [ask(client) for _ in range(TWINS)]
    await until(lambda: is_queued(database, TWINS))
    held = lent(database)

    gate.opened.set()
    answers = await asyncio.gather(*twins)

    assert held["writer slots"] == 1
    assert "writer queue" not in held
    assert [answer.code for answer in answers] == [201] * (TWINS + 1)
    assert {answer.body for answer in answers} == {answers[0].body}
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == TWINS
    assert notes() == ["k"]
    assert not database.turns


@SERVER
async def test_another_clients_write_is_served_beside_twins(mount: Mount, notes: Notes, gate: Gate):
    client = mount(gate.handler)
    twins = [ask(client)]
    await gate.begun.wait()
    twins += [ask(client) for _ in range(TWINS)]
    await asyncio.sleep(0.3)

    other = await ask(client, "other")
    gate.opened.set()

    assert other.code == 201
    assert [answer.code for answer in await asyncio.gather(*twins)] == [201] * (TWINS + 1)
    assert sorted(notes()) == ["k", "other"]


async def test_where_the_first_is_refused_one_twin_does_its_work(
    mount: Mount, notes: Notes, database: Database, gate: Gate
):
    gate.ends = "refused"
    client = mount(gate.handler)
    first = ask(client)
    await gate.begun.wait()
    twins = [ask(client) for _ in range(TWINS)]
    await until(lambda: is_queued(database, TWINS))

    gate.opened.set()
    answers = await asyncio.gather(*twins)

    assert (await first).code == 409
    assert [answer.code for answer in answers] == [201] * TWINS
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == TWINS - 1
    assert (gate.calls, notes()) == (2, ["k"])
    assert not database.turns


@pytest.mark.parametrize("where", ["post", "prepare"])
async def test_a_twin_waits_until_its_own_deadline(
    mount: Mount, notes: Notes, database: Database, gate: Gate, expect_log: ExpectLog, where: str
):
    """503 with Retry-After; the first is not touched by it, and the next twin is served."""

    class Handler(gate.handler):  # type: ignore[name-defined,misc]
        async def prepare(self) -> None:
            super().prepare()
            if where == "prepare":
                await self.run(count_notes, self.session)

    client = mount(Handler)
    first = ask(client)
    await gate.begun.wait()

    with expect_log("tornado.access", "^503 POST"), expect_log("onfinish", "under way", required=False):
        twin = await ask(client, **{"X-Timeout-S": "0.3"})
    late = ask(client)
    await until(lambda: is_queued(database, 1))
    gate.opened.set()

    assert (twin.code, twin.json()["outcome"]) == (503, "not_applied")
    assert "Retry-After" in twin.headers
    assert (await first).code == 201
    assert (await late).headers["Idempotency-Replayed"] == "true"
    assert not database.turns


async def test_a_twin_whose_client_leaves_goes_away(
    mount: Mount, notes: Notes, database: Database, gate: Gate, expect_log: ExpectLog
):
    """It has done nothing yet, and the first does the work: nothing waits any more, no answer is sent."""
    client = mount(gate.handler)
    first = ask(client)
    await gate.begun.wait()

    with expect_log("tornado.access", r"^499 POST / .* undone ", level=logging.INFO) as lines:
        async with Wire(client.port) as wire:
            wire.send("POST / HTTP/1.1", "Content-Length: 0", "Idempotency-Key: k")
            await until(lambda: is_queued(database, 1))
            wire.leave()
        await until(lambda: is_queued(database, 0))
        await until(lambda: lines)
    gate.opened.set()

    assert (await first).code == 201
    assert gate.calls == 1
    assert not database.turns


async def test_a_write_whose_client_leaves_behind_its_turn_runs_to_its_end(
    mount: Mount, notes: Notes, database: Database, gate: Gate
):
    """With a key as without one: what has begun is ended."""
    client = mount(gate.handler)
    async with Wire(client.port) as wire:
        wire.send("POST / HTTP/1.1", "Content-Length: 0", "Idempotency-Key: k")
        await gate.begun.wait()
        wire.leave()
    await asyncio.sleep(0.05)
    gate.opened.set()

    await until(lambda: notes() == ["k"])
    again = await ask(client)
    assert (again.code, again.headers["Idempotency-Replayed"]) == (201, "true")


async def test_a_check_in_the_requests_own_session_takes_no_slot_beside_a_twin(
    mount: Mount, notes: Notes, database: Database, gate: Gate
):
    """The turn comes before the first `run`, wherever that is; whatever cookie changes between retries."""
    checked = 0

    class Handler(gate.handler):  # type: ignore[name-defined,misc]
        async def prepare(self) -> None:
            nonlocal checked
            super().prepare()
            await self.run(count_notes, self.session)
            checked += 1

    client = mount(Handler)
    log_in = {"Authorization": "Bearer x"}
    twins = [ask(client, **log_in)]
    await gate.begun.wait()
    twins += [ask(client, **log_in, Cookie=f"visit={n}") for n in range(TWINS)]
    await until(lambda: is_queued(database, TWINS))
    held, checked_meanwhile = lent(database), checked
    gate.opened.set()
    answers = await asyncio.gather(*twins)

    assert held["writer slots"] == 1
    assert checked_meanwhile == 1
    assert [answer.code for answer in answers] == [201] * (TWINS + 1)
    assert notes() == ["k"]
    assert not database.turns


@SERVER
async def test_callers_do_not_wait_for_one_another(
    mount: Mount, notes: Notes, database: Database, gate: Gate
):
    """Two callers that chose one key: the second is served while the first is under way."""

    class Handler(gate.handler):  # type: ignore[name-defined,misc]
        def get_current_user(self) -> str:
            return str(self.request.headers["X-User"])

        async def post(self) -> None:
            if self.current_user == "bob":
                await self.run(add_note, self.session, text="bob")
            else:
                await super().post()

    client = mount(Handler)
    first = ask(client, **{"X-User": "alice"})
    await gate.begun.wait()
    other = await ask(client, **{"X-User": "bob"})
    gate.opened.set()

    assert (other.code, (await first).code) == (200, 201)
    assert sorted(notes()) == ["bob", "k"]


@SERVER
async def test_a_twin_of_another_process_is_waited_for_in_the_database_by_one(
    mount: Mount, serve: Serve, notes: Notes, database: Database, gate: Gate
):
    """A second `Database` stands for the second process: only one of its twins waits there with a slot."""
    client = mount(gate.handler)
    first = ask(client)
    await gate.begun.wait()
    elsewhere = Database(database.settings)
    try:
        other_client = serve(Application([("/", gate.handler)], database=elsewhere))
        twins = [ask(other_client) for _ in range(TWINS)]
        await until(lambda: is_queued(elsewhere, TWINS - 1))
        await until(lambda: elsewhere.writer.limiter.taken == 1)
        held = lent(elsewhere)
        gate.opened.set()
        answers = await asyncio.gather(first, *twins)
        assert lent(elsewhere) == {}
    finally:
        await elsewhere.close()

    assert (held["writer slots"], "writer queue" in held) == (1, False)
    assert [answer.code for answer in answers] == [201] * (TWINS + 1)
    assert notes() == ["k"]


async def test_a_request_without_a_key_stands_in_no_queue(mount: Mount, notes: Notes, database: Database):
    class Handler(IdempotentHandler, ApiHandler):
        async def post(self) -> None:
            await self.run(count_notes, self.session)
            assert not database.turns

    assert (await mount(Handler).post("/")).code == 200


async def test_a_check_that_was_cut_short_in_the_queue_may_be_made_again(
    mount: Mount, notes: Notes, database: Database, gate: Gate
):
    """Its handler waits for a moment only, and then once more: it stands in the queue again, and once."""
    cut = 0

    class Handler(gate.handler):  # type: ignore[name-defined,misc]
        async def prepare(self) -> None:
            nonlocal cut
            super().prepare()
            if gate.begun.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.run(count_notes, self.session), 0.1)
                cut += 1
            await self.run(count_notes, self.session)

    client = mount(Handler)
    first = ask(client)
    await gate.begun.wait()
    twin = ask(client)
    await until(lambda: cut)
    await until(lambda: is_queued(database, 1))
    gate.opened.set()

    assert [(await each).code for each in (first, twin)] == [201, 201]
    assert notes() == ["k"]
    assert not database.turns


@SERVER
async def test_a_request_that_runs_again_and_its_twin_are_done_once(
    mount: Mount, notes: Notes, database: Database
):
    """The first conflicts at its COMMIT, and a twin may come before its second attempt."""

    class Handler(IdempotentHandler, ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="conflicts once")
            self.set_status(201)

    client = mount(Handler)
    answers = await asyncio.gather(*(ask(client) for _ in range(3)))

    assert [answer.code for answer in answers] == [201] * 3
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 2
    assert notes() == ["conflicts once"]
    assert not database.turns


async def test_a_request_that_waits_for_a_slot_has_no_twin(
    mount: Mount, notes: Notes, database: Database, expect_log: ExpectLog
):
    """504 as without a key: that "is still under way" was said of one that had never been sent."""

    class Handler(IdempotentHandler, ApiHandler):
        timeout_s = 0.3

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client, limiter = mount(Handler), database.writer.limiter
    with all_slots(limiter), expect_log("tornado.access", r"^504 POST / .* undone "):
        answer = await ask(client)

    assert (answer.code, answer.json()["outcome"]) == (504, "not_applied")
    assert notes() == []
