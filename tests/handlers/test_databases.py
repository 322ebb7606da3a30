"""Several databases in one application: a session each, and one end for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop
from tornado.web import Application, HTTPError
from tornado.websocket import websocket_connect

from conf import DatabaseSettings
from db import Database
from db.blocking import pause
from db.errors import PartlyCommitted, RetryableConflict
from handlers import ApiHandler, SessionWebSocketHandler
from handlers.ops import ReadyzHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client, Serve
from tests.fixtures.slots import all_slots
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import all_back, lent
from tests.handlers.notes import DDL, NO_NOTE, add_note, list_texts, take_long
from tests.handlers.test_websocket import read
from tests.handlers.waiting import until

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver("postgresql+asyncpg")]

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One slot each, and little patience."""
    return DatabaseSettings(url=database_url, pool_size=1, pool_timeout_s=0.3)


@pytest.fixture
def billing(other_url: str, io_loop: IOLoop) -> Iterator[Database]:
    """The other database, with an empty table ``notes`` too."""
    database = Database(DatabaseSettings(url=other_url, pool_size=1, pool_timeout_s=0.3))
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def bills(backend: str, other_url: str) -> Notes:
    """As ``notes``, in the other database."""
    sql = RawSql(other_url)
    sql.run_each(DDL[backend])
    return lambda: [row["text"] for row in sql("SELECT text FROM notes ORDER BY id")]


@pytest.fixture
def serve_both(mount: Mount, billing: Database, bills: Notes, io_loop: IOLoop) -> Iterator[Mount]:
    """As ``mount``, with the other database under its name; at the end all is back there too."""
    yield lambda handler, **settings: mount(handler, databases={"billing": billing}, **settings)
    assert io_loop.run_sync(lambda: all_back(billing)) == {}


class Both(ApiHandler):
    """Writes a row at each; a subclass has an end of its own."""

    order: ClassVar[dict[str, Any]] = {"text": "order"}
    bill: ClassVar[dict[str, Any]] = {"text": "bill"}

    async def post(self) -> None:
        await self.run(add_note, self.session, **self.order)
        await self.run(add_note, self.session_of("billing"), **self.bill)
        await self.end()

    async def end(self) -> None:
        self.set_status(201)


async def test_a_request_is_kept_at_both_before_its_answer_leaves(
    serve_both: Mount, notes: Notes, bills: Notes
):
    answer = await serve_both(Both).post("/")

    assert answer.code == 201
    assert (notes(), bills()) == (["order"], ["bill"])


async def test_nothing_is_in_either_before_the_answer(serve_both: Mount, notes: Notes, bills: Notes):
    """Each is a transaction of its own, and both end with the request."""
    seen: list[object] = []

    class Handler(Both):
        async def end(self) -> None:
            await asyncio.sleep(0.05)
            seen.append((notes(), bills()))

    await serve_both(Handler).post("/")

    assert seen == [([], [])]


async def test_a_request_that_asks_for_no_other_database_opens_nothing_there(
    serve_both: Mount, billing: Database, notes: Notes, monkeypatch: pytest.MonkeyPatch
):
    opened: list[object] = []
    monkeypatch.setattr(billing.registry, "opened", opened.append)

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="order")

    await serve_both(Handler).post("/")

    assert (notes(), opened) == (["order"], [])


async def test_a_name_has_one_session_a_request(serve_both: Mount, bills: Notes):
    class Handler(ApiHandler):
        async def post(self) -> None:
            first = self.session_of("billing")
            await self.run(add_note, first, text="bill")
            self.write_json([first is self.session_of("billing"), first is not self.session])

    answer = await serve_both(Handler).post("/")

    assert answer.json() == [True, True]
    assert bills() == ["bill"]


async def test_the_session_may_be_passed_by_its_name(serve_both: Mount, bills: Notes):
    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, session=self.session_of("billing"), text="bill")

    await serve_both(Handler).post("/")

    assert bills() == ["bill"]


# -- how it ends: the table of endings, for both


def raising(error: Exception) -> Callable[[Both], None]:
    def end(handler: Both) -> None:
        raise error

    return end


ENDS: dict[str, tuple[Callable[[Both], object], int]] = {
    "HTTPError": (raising(HTTPError(409)), 409),
    "a fault": (raising(KeyError("x")), 500),
    "a status": (lambda handler: handler.set_status(404), 404),
    "send_error": (lambda handler: handler.send_error(403), 403),
    "not awaited": (
        lambda handler: handler.run(list_texts, handler.session_of("billing")),
        500,
    ),
    "no such database": (lambda handler: handler.session_of("bilings"), 500),
    "two sessions": (
        lambda handler: handler.run(list_texts, handler.session, handler.session_of("billing")),  # type: ignore[call-arg]
        500,
    ),
}


@pytest.mark.parametrize("way", ENDS)
async def test_a_request_that_fails_is_undone_at_both(
    way: str, serve_both: Mount, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    end, status = ENDS[way]

    class Handler(Both):
        async def end(self) -> None:
            end(self)

    client = serve_both(Handler)
    with (
        expect_log("onfinish.handlers", "KeyError|UsageError", required=status == 500),
        expect_log("tornado.access", rf"^{status} POST / .* undone ", level=logging.INFO),
    ):
        answer = await client.post("/")
        outcome = answer.headers.get("X-Outcome") or answer.json()["outcome"]

    assert (answer.code, outcome) == (status, "not_applied")
    assert (notes(), bills()) == ([], [])


async def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    serve_both: Mount, expect_log: ExpectLog
):
    class Handler(ApiHandler):
        async def get(self) -> None:
            self.session_of("bilings")

    with (
        expect_log("onfinish.handlers", "no database 'bilings'; the setting `databases` has 'billing'"),
        expect_log("tornado.access", "^500 GET"),
    ):
        answer = await serve_both(Handler).get("/")

    assert answer.code == 500


async def test_what_the_other_refuses_before_its_commit_is_undone_at_both(
    serve_both: Mount, notes: Notes, bills: Notes
):
    """A row that its unique constraint refuses: 409."""

    class Handler(Both):
        async def end(self) -> None:
            await self.run(add_note, self.session_of("billing"), text="bill")

    answer = await serve_both(Handler).post("/")

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert (notes(), bills()) == ([], [])


async def test_the_other_database_commits_first_and_what_it_refuses_there_is_undone_at_both(
    serve_both: Mount, notes: Notes, bills: Notes
):
    """A constraint that speaks only at COMMIT: no COMMIT was applied yet."""

    class Handler(Both):
        bill: ClassVar[dict[str, Any]] = {"text": "bill", "parent_id": NO_NOTE}

    answer = await serve_both(Handler).post("/")

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert (notes(), bills()) == ([], [])


@pytest.mark.parametrize("early", [False, True])
async def test_a_second_commit_that_fails_is_unknown_and_not_retried(
    early: bool, serve_both: Mount, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    """The one thing that is not atomic: the other database has kept its part. The log names it."""
    attempts: list[int] = []
    after: list[str] = []

    class Handler(Both):
        order: ClassVar[dict[str, Any]] = {"text": "order", "parent_id": NO_NOTE}
        retry_on = (PartlyCommitted,)

        async def end(self) -> None:
            attempts.append(1)
            self.on_commit(after.append, "called")
            if early:
                await self.commit()

    client = serve_both(Handler)
    with (
        expect_log("onfinish.handlers", "was committed at billing, and not at the databases that follow"),
        expect_log("onfinish.handlers", "PartlyCommitted|applied its part", required=False),
        expect_log("tornado.access", r"^503 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (503, "unknown")
    assert answer.json()["detail"] == "one database has applied its part of the work, and another has not"
    assert (notes(), bills(), len(attempts), after) == ([], ["bill"], 1, [])


async def test_an_early_commit_that_was_partly_applied_and_caught_is_not_retried(
    serve_both: Mount, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    """Whatever the handler raises then: a retry would do the other's part twice."""
    attempts: list[int] = []

    class Handler(Both):
        order: ClassVar[dict[str, Any]] = {"text": "order", "parent_id": NO_NOTE}

        async def end(self) -> None:
            attempts.append(1)
            with pytest.raises(PartlyCommitted):
                await self.commit()
            raise RetryableConflict("deadlock")

    client = serve_both(Handler)
    with (
        expect_log("onfinish.handlers", "committed at billing|503|refused the transaction"),
        expect_log("tornado.access", r"^503 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.json()["outcome"], len(attempts)) == ("unknown", 1)
    assert (notes(), bills()) == ([], ["bill"])


async def test_what_can_fail_before_a_commit_fails_before_the_first_of_them(
    serve_both: Mount, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    """A function for the last work, and rows that were added and not flushed."""

    def refuse(session: Any) -> None:
        raise HTTPError(409)

    class Last(Both):
        async def end(self) -> None:
            self.before_commit(refuse)

    answer = await serve_both(Last).post("/")

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert (notes(), bills()) == ([], [])


@pytest.mark.parametrize("where", ["order", "bill"])
async def test_a_conflict_at_either_is_retried_at_both(
    where: str, serve_both: Mount, notes: Notes, bills: Notes
):
    attempts: list[int] = []

    def conflict_once(session: Any) -> None:
        if len(attempts) == 1:
            raise RetryableConflict("deadlock")

    class Handler(Both):
        async def end(self) -> None:
            attempts.append(1)
            await self.run(conflict_once, self.session if where == "order" else self.session_of("billing"))

    answer = await serve_both(Handler).post("/")

    assert (answer.code, len(attempts)) == (200, 2)
    assert (notes(), bills()) == (["order"], ["bill"])


@on_postgresql
async def test_a_conflict_at_the_commit_of_the_other_is_retried_at_both(
    serve_both: Mount, notes: Notes, bills: Notes
):
    """It is the first COMMIT, and nothing was applied."""
    attempts: list[int] = []

    class Handler(Both):
        bill: ClassVar[dict[str, Any]] = {"text": "conflicts once"}

        async def end(self) -> None:
            attempts.append(1)

    answer = await serve_both(Handler).post("/")

    assert (answer.code, len(attempts)) == (200, 2)
    assert (notes(), bills()) == (["order"], ["conflicts once"])


async def test_the_deadline_cancels_both(
    serve_both: Mount, billing: Database, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    """The statement that runs at the other database, and the transaction here."""

    class Handler(Both):
        timeout_s = 0.5

        async def end(self) -> None:
            await self.run(take_long, self.session_of("billing"))

    client = serve_both(Handler)
    with (
        expect_log("onfinish.db", "thrown away|cut", required=False),
        expect_log("tornado.access", r"^504 POST / .* undone "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (504, "not_applied")
    assert await all_back(billing) == {}
    assert (notes(), bills()) == ([], [])


async def test_a_client_that_leaves_cancels_a_read_at_both(
    serve_both: Mount, database: Database, billing: Database, expect_log: ExpectLog
):
    begun = asyncio.Event()

    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(list_texts, self.session)
            await self.run(list_texts, self.session_of("billing"))
            begun.set()
            await self.run(take_long, self.session_of("billing"))

    client = serve_both(Handler)
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(begun.wait(), 5)
    with (
        expect_log("onfinish.db", "thrown away|cut", required=False),
        expect_log("tornado.access", "^499 GET /", level=logging.INFO) as lines,
    ):
        writer.close()
        await until(lambda: lines)
        assert await all_back(billing) == {}
        assert await all_back(database) == {}


async def test_each_has_its_own_admission_and_a_request_that_finds_no_slot_is_undone_at_both(
    serve_both: Mount,
    database: Database,
    billing: Database,
    notes: Notes,
    bills: Notes,
    expect_log: ExpectLog,
):
    client = serve_both(Both)
    with (
        all_slots(billing.writer.limiter),
        expect_log("onfinish.handlers", "^503"),
        expect_log("tornado.access", r"^503 POST / .* undone "),
    ):
        refused = await client.post("/")
    free = lent(database)
    answer = await client.post("/")

    assert (refused.code, refused.headers["Retry-After"], refused.json()["outcome"]) == (
        503,
        "1",
        "not_applied",
    )
    assert (free, answer.code) == ({}, 201)
    assert (notes(), bills()) == (["order"], ["bill"])


async def test_a_get_may_not_write_at_the_other_database_either(
    serve_both: Mount, bills: Notes, expect_log: ExpectLog
):
    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(add_note, self.session_of("billing"), text="bill")

    with expect_log("onfinish.handlers", "ReadOnlyViolation"), expect_log("tornado.access", "^500 GET"):
        answer = await serve_both(Handler).get("/")

    assert answer.code == 500
    assert bills() == []


async def test_an_error_after_finish_undoes_nothing(
    serve_both: Mount, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    class Handler(Both):
        async def end(self) -> None:
            self.finish()
            raise KeyError("late")

    with expect_log("onfinish.handlers", "late"):
        answer = await serve_both(Handler).post("/")

    assert answer.code == 200
    assert (notes(), bills()) == (["order"], ["bill"])


@pytest.mark.parametrize("status", [200, 409])
async def test_an_early_commit_commits_both_at_once(
    status: int, serve_both: Mount, database: Database, billing: Database, notes: Notes, bills: Notes
):
    """Both connections are back then, and a later error has the outcome "applied"."""
    seen: list[object] = []

    class Handler(Both):
        async def end(self) -> None:
            await self.commit()
            seen.extend([notes(), bills(), lent(database), lent(billing)])
            if status == 409:
                raise HTTPError(409)

    answer = await serve_both(Handler).post("/")

    assert answer.code == status
    assert status == 200 or answer.json()["outcome"] == "applied"
    assert seen == [["order"], ["bill"], {}, {}]


async def test_a_fault_after_an_early_commit_of_both_leaves_both_applied(
    serve_both: Mount, notes: Notes, bills: Notes, expect_log: ExpectLog
):
    """A call that is not awaited: 500, and not a word of a part."""

    class Handler(Both):
        async def end(self) -> None:
            await self.commit()
            self.run(list_texts, self.session)  # type: ignore[unused-coroutine]  # on purpose

    with (
        expect_log("onfinish.handlers", "was not awaited"),
        expect_log("tornado.access", r"^500 POST / .* kept "),
    ):
        answer = await serve_both(Handler).post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "applied")
    assert (notes(), bills()) == (["order"], ["bill"])


async def test_a_call_that_is_under_way_when_the_answer_is_complete_is_waited_for(
    serve_both: Mount, notes: Notes, bills: Notes
):
    """As with one database: its task had begun it, and what it does is a part of the request's work."""
    tasks: list[asyncio.Task[object]] = []

    def add_slowly(session: Session, *, text: str) -> None:
        pause(0.2)
        add_note(session, text=text)

    class Handler(Both):
        async def end(self) -> None:
            work = self.run(add_slowly, self.session_of("billing"), text="late bill")
            tasks.append(asyncio.ensure_future(work))
            await asyncio.sleep(0.05)

    answer = await serve_both(Handler).post("/")

    assert answer.code == 200
    assert (notes(), bills()) == (["order"], ["bill", "late bill"])
    assert tasks[0].done()


async def test_a_stream_reads_at_both_and_gives_both_back(serve_both: Mount, bills: Notes):
    """`serve_both` looks whether all is back."""

    class Handler(ApiHandler):
        streams = True

        async def get(self) -> None:
            self.write(repr(await self.run(list_texts, self.session)))
            await self.flush()
            self.write(repr(await self.run(list_texts, self.session_of("billing"))))

    answer = await serve_both(Handler).get("/")

    assert (answer.code, answer.body) == (200, b"[][]")


async def test_a_redirect_in_prepare_keeps_what_was_written_at_both(
    serve_both: Mount, notes: Notes, bills: Notes
):
    """As any answer below 400."""

    class Handler(Both):
        async def prepare(self) -> None:
            await super().prepare()
            await self.run(add_note, self.session, **self.order)
            await self.run(add_note, self.session_of("billing"), **self.bill)
            self.redirect("/elsewhere")

    answer = await serve_both(Handler).post("/")

    assert answer.code == 302
    assert (notes(), bills()) == (["order"], ["bill"])


async def test_a_read_at_both_sends_nothing_more_at_its_end(
    serve_both: Mount, billing: Database, bills: Notes
):
    """Neither a flush nor a COMMIT: as with one database."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            here = await self.run(list_texts, self.session)
            self.write_json([here, await self.run(list_texts, self.session_of("billing"))])

    answer = await serve_both(Handler).get("/")

    assert answer.json() == [[], []]
    assert "commit;dur=0.0" in answer.headers["Server-Timing"]


@pytest.mark.parametrize("end", ["finish", "commit"])
async def test_the_other_session_is_asked_for_before_the_end(
    end: str, serve_both: Mount, bills: Notes, expect_log: ExpectLog
):
    """Its work would never be committed."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(list_texts, self.session)
            if end == "finish":
                self.finish()
            else:
                await self.commit()
            self.session_of("billing")

    with (
        expect_log("onfinish.handlers", r"session_of\('billing'\) was called after commit\(\) or finish\(\)"),
        expect_log("tornado.access", "^500 POST", required=end == "commit"),
    ):
        answer = await serve_both(Handler).post("/")

    assert answer.code == (200 if end == "finish" else 500)


@on_postgresql
@pytest.mark.parametrize("where", ["order", "bill"])
async def test_a_commit_without_an_answer_is_unknown_whichever_it_is(
    where: str, serve_both: Mount, database: Database, billing: Database, expect_log: ExpectLog
):
    """Its connection is cut at the deadline while COMMIT runs; without commit markers there is no telling."""
    database.commit_markers = billing.commit_markers = None

    class Handler(Both):
        timeout_s = 0.6
        order: ClassVar[dict[str, Any]] = {"text": "slow to commit" if where == "order" else "order"}
        bill: ClassVar[dict[str, Any]] = {"text": "slow to commit" if where == "bill" else "bill"}

    client = serve_both(Handler)
    with (
        expect_log("onfinish", r"cut|OutcomeUnknown|could not be rolled back|not known"),
        expect_log("tornado.access", r"^50[34] POST / .* unknown "),
    ):
        answer = await client.post("/")
        assert await all_back(billing, within_s=10) == {}  # once the server is done with it

    assert answer.code in (503, 504)
    assert answer.json()["outcome"] == "unknown"


@on_postgresql
async def test_each_has_a_commit_marker_of_its_own(
    serve_both: Mount, sql: RawSql, other_url: str, backend: str
):
    """By which a COMMIT without an answer is looked up where it was sent."""
    answer = await serve_both(Both).post("/")
    here, there = (each("SELECT * FROM commit_witness") for each in (sql, RawSql(other_url)))

    assert answer.code == 201
    assert (len(here), len(there)) == (1, 1)


# -- readiness


@pytest.mark.parametrize("work", ["", "?work=reads", "?work=writes"])
async def test_readiness_asks_all_databases_and_names_the_one_that_does_not_answer(
    work: str, mount: Mount, billing: Database, tmp_path: Path, expect_log: ExpectLog
):
    gone = Database(DatabaseSettings(url=f"sqlite:///{tmp_path}/no-such-folder/x.db"))
    both_answer = await mount(ReadyzHandler, databases={"billing": billing}).get(f"/{work}")
    client = mount(ReadyzHandler, databases={"billing": billing, "stock": gone})
    with expect_log("onfinish.handlers", "not ready.*: stock: "), expect_log("tornado.access", "^503 GET"):
        one_is_gone = await client.get(f"/{work}")
    await gone.close()

    assert (both_answer.code, one_is_gone.code) == (200, 503)
    assert one_is_gone.json()["reason"].startswith("stock: the database does not answer")


# -- a WebSocket's messages


class Socket(SessionWebSocketHandler):
    """The same for a message, which says how it is to end."""

    timeout_s = 1.0

    async def handle_message(self, message: str | bytes) -> None:
        await self.run(
            add_note, self.session, text="order", parent_id=NO_NOTE if message == "partly" else None
        )
        await self.run(add_note, self.session_of("billing"), text="bill")
        if message == "commits":
            await self.commit()
        if message in ("raises", "commits"):
            raise HTTPError(409)
        if message == "hangs":
            await self.run(take_long, self.session_of("billing"))
        self.write_message({"done": message})


@pytest.mark.parametrize(
    ("message", "outcome", "kept"),
    [
        ("returns", None, (["order"], ["bill"])),
        ("raises", "not_applied", ([], [])),
        ("commits", "applied", (["order"], ["bill"])),
        ("hangs", "not_applied", ([], [])),
        ("partly", "unknown", ([], ["bill"])),
    ],
)
async def test_a_message_is_kept_or_undone_at_both(
    message: str,
    outcome: str | None,
    kept: tuple[list[str], list[str]],
    serve: Serve,
    database: Database,
    billing: Database,
    notes: Notes,
    bills: Notes,
    expect_log: ExpectLog,
):
    application = Application([("/", Socket)], database=database, databases={"billing": billing})
    client: Client = serve(application)
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/")
    with (
        expect_log(
            "onfinish.handlers", "committed at billing|applied its part", required=message == "partly"
        ),
        expect_log("onfinish", "thrown away|cut|ran out", required=False),
    ):
        await socket.write_message(message)
        reply = await read(socket)
    socket.close()

    assert reply.get("outcome") == outcome
    assert (notes(), bills()) == kept
    assert (await all_back(database), await all_back(billing)) == ({}, {})
