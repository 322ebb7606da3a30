"""What is logged of a request: its real status and outcome, once, and no personal data."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

import pytest
from sqlalchemy import text as sql_text
from tornado.web import HTTPError, RequestHandler

from db import Database
from db.errors import RetryableConflict
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import NO_NOTE, add_note, list_texts

pytestmark = pytest.mark.gen_test

SECRET = "pell-mell"


class Board(ApiHandler):
    """Ends as its path says."""

    attempts: int = 0

    async def get(self, end: str) -> None:
        await self.run(list_texts, self.session)

    async def post(self, end: str) -> None:
        parent_id = NO_NOTE if end == "orphan" else None
        await self.run(add_note, self.session, text="written", parent_id=parent_id)
        if end == "again":
            Board.attempts += 1
            if Board.attempts == 1:
                raise RetryableConflict("deadlock")
        if end == "sleep":
            await asyncio.sleep(5)
        if end == "lie":
            self.set_status(200, reason="Sure")
            raise ValueError("no")
        self.set_status(201)


@pytest.mark.parametrize(
    ("method", "end", "status", "work"),
    [
        ("GET", "read", 200, "read"),
        ("POST", "written", 201, "kept"),
        ("POST", "again", 201, "kept"),
        ("POST", "orphan", 409, "undone"),
        ("POST", "sleep", 504, "undone"),
        ("POST", "lie", 500, "undone"),
    ],
)
async def test_the_log_function_is_given_the_real_status_once(
    method: str,
    end: str,
    status: int,
    work: str,
    mount: Mount,
    database: Database,
    notes: Notes,
    expect_log: ExpectLog,
):
    """The status that the client was told, and what became of the work; one call a request.

    The time is that of all attempts.
    """
    Board.attempts = 0
    calls: list[tuple[int, str, dict[str, int], float]] = []

    def log_function(handler: RequestHandler) -> None:
        assert isinstance(handler, ApiHandler)
        took_s = handler.request.request_time()
        calls.append((handler.get_status(), handler.work_outcome, lent(database), took_s))

    limit_s = 0.3 if end == "sleep" else 10
    client = mount(Board, r"/(.*)", log_function=log_function, request_timeout_s=limit_s)
    with expect_log("onfinish.handlers", r"ValueError: no", required=end == "lie"):
        answer = await client.request(method, f"/{end}", b"" if method == "POST" else None)
        await asyncio.sleep(0.02)

    assert answer.code == status
    assert [call[:3] for call in calls] == [(status, work, {})]
    assert calls[0][3] >= (0.3 if end == "sleep" else 0)
    assert notes() == (["written"] if work == "kept" else [])


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", ["200", "set 404", "raise 404", "raise 500", "set 404, with more to do"])
async def test_the_access_line_and_the_observer_are_told_the_same(
    end: str,
    method: str,
    mount: Mount,
    database: Database,
    notes: Notes,
    expect_log: ExpectLog,
    monkeypatch: pytest.MonkeyPatch,
):
    """It is decided in one place: what a unit of work has come to."""
    counted: list[str] = []
    monkeypatch.setattr(database.observer, "ended", lambda unit: counted.append(unit.outcome.value))

    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(list_texts, self.session)
            if end.startswith("set 404"):
                self.set_status(404)
            if end.endswith("more to do"):
                self.before_commit(list_texts)
            if end.startswith("raise"):
                raise HTTPError(int(end[-3:]), "on purpose")

        post = get

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"on purpose", required=end == "raise 500"),
        expect_log("tornado.access", r"^\d+ ", level=logging.INFO) as lines,
    ):
        await client.request(method, "/", b"" if method == "POST" else None)

    logged = lines[0].getMessage().split()[-2]
    assert counted == [logged]
    assert logged == (("read" if method == "GET" else "kept") if end == "200" else "undone")


async def test_the_access_line(mount: Mount, expect_log: ExpectLog):
    """Status, method, path, caller, time, statements, outcome, id; no query, which may hold personal data."""
    client = mount(Board, r"/(.*)")
    with expect_log("tornado.access", r".", level=logging.INFO) as lines:
        await client.post(f"/new?q={SECRET}", headers={"X-Request-Id": "r1"})

    assert [re.sub(r"[0-9]sql", "#sql", line.getMessage().split("ms")[-1]) for line in lines] == [
        " #sql kept r1"
    ]
    assert lines[0].getMessage().startswith("201 POST /new (127.0.0.1) ")
    assert SECRET not in lines[0].getMessage()


async def test_the_statements_of_all_attempts_are_counted_and_what_begins_and_commits_is_not(
    mount: Mount, expect_log: ExpectLog
):
    """Two reads are two; a request that runs twice is counted twice; one without SQL has sent none."""

    class Counted(ApiHandler):
        attempts = 0

        async def get(self, count: str) -> None:
            for _ in range(int(count)):
                await self.run(list_texts, self.session)

        async def post(self, count: str) -> None:
            await self.get(count)
            Counted.attempts += 1
            if Counted.attempts == 1:
                raise RetryableConflict("deadlock")

    client = mount(Counted, r"/(.*)")
    with expect_log("tornado.access", r".", level=logging.INFO) as lines:
        await client.get("/2")
        await client.get("/0")
        await client.post("/3")
        await client.request("BREW", "/1")

    counts = [re.findall(r" (\d+)sql ", line.getMessage()) for line in lines]
    own = 0 if counts[2] == ["6"] else 1  # the commit marker looks whether anything was written
    assert counts == [["2"], ["0"], [str(6 + own)], []]


def no_word_of(records: list[logging.LogRecord], answer: Answer, *words: str) -> bool:
    """Whether neither log, tracebacks included, nor answer has one of these words."""
    formatter = logging.Formatter()
    texts = [formatter.format(record) for record in records]
    texts += [answer.body.decode(), str(list(answer.headers.get_all()))]
    return not any(word in text for text in texts for word in words)


WORDS = (SECRET, "INSERT INTO", "SELECT *", "nowhere", "VALUES", "DETAIL", "Key (", "[SQL", "[parameters")

# Not in the functions: the traceback of a record shows lines of the program, which are no data.
NONSENSE = sql_text(f"SELECT * FROM nowhere WHERE name = '{SECRET}'")
BAD_ROW = sql_text("INSERT INTO notes (id, text) VALUES (:id, :text)")


def add_twice(handler: ApiHandler) -> None:
    add_note(handler.session, text=SECRET)
    add_note(handler.session, text=SECRET)


def add_twice_and_wrap(handler: ApiHandler) -> None:
    try:
        add_twice(handler)
    except Exception as error:
        raise RuntimeError("could not be saved") from error


def add_twice_and_go_on(handler: ApiHandler) -> None:
    try:
        add_twice(handler)
    except Exception:  # noqa: BLE001  # the mistake that is tested
        list_texts(handler.session)


def add_twice_and_fail_in_except(handler: ApiHandler) -> None:
    try:
        add_twice(handler)
    except Exception:  # noqa: BLE001  # what is raised here has the other one as its context
        raise KeyError("another mistake")  # noqa: B904


def select_nonsense(handler: ApiHandler) -> None:
    handler.session.execute(NONSENSE)


def pass_nonsense(handler: ApiHandler) -> None:
    handler.session.execute(BAD_ROW, {"id": SECRET, "text": SECRET})


def add_orphan(handler: ApiHandler) -> None:
    add_note(handler.session, text=SECRET, parent_id=NO_NOTE)


FAULTS: dict[str, tuple[Any, set[int]]] = {
    "a constraint": (add_twice, {409}),
    "a constraint at COMMIT": (add_orphan, {409}),
    "an error caused by a constraint": (add_twice_and_wrap, {500}),
    "an error on the way out of a constraint": (add_twice_and_fail_in_except, {500}),
    "a session used after a failed flush": (add_twice_and_go_on, {500}),
    "a statement that is wrong": (select_nonsense, {500}),
    "a parameter that is wrong": (pass_nonsense, {500}),
}


@pytest.mark.every_driver
@pytest.mark.parametrize("fault", FAULTS)
async def test_neither_log_nor_answer_show_sql_or_data(
    fault: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Not of an expected error, not of an unexpected one, not of what caused it: codes and frames only."""
    function, statuses = FAULTS[fault]

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(function, self)

    client = mount(Handler)
    with expect_log("", r"(.|\n)*", level=logging.INFO) as records:
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code in statuses
    lines = [record for record in records if record.name.startswith(("onfinish", "tornado"))]
    if answer.code == 500:
        assert any(record.levelno == logging.ERROR for record in lines)
    assert no_word_of(lines, answer, *WORDS), [record.getMessage() for record in lines]
    assert notes() == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_a_stopping_service_refuses_is_undone(
    method: str, mount: Mount, expect_log: ExpectLog
):
    """It never had a unit of work, and "open" is no outcome."""
    client = mount(Board, "/(.*)", refuses_requests_since=time.time() - 60)
    with (
        expect_log("onfinish.handlers", rf"503 {method} .*shutting down"),
        expect_log("tornado.access", rf"^503 {method} /read .* undone "),
    ):
        answer = await client.request(method, "/read", b"" if method == "POST" else None)

    assert (answer.code, answer.json()["outcome"]) == (503, "not_applied")
