"""A `SessionHandler` answers and logs as Tornado's own handler, and a subclass finds the answer."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql_text
from sqlalchemy.orm import Session
from tornado.web import Application, HTTPError, RequestHandler

from db import Database
from handlers import SessionHandler, log_request
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import NO_NOTE, add_note

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

ROOT = Path(__file__).resolve().parent.parent.parent

MISSPELT = "SELECT txet FROM notes WHERE text = 'jane@example.org'"


def misspell(session: Session) -> None:
    session.execute(sql_text(MISSPELT))


class Etag:
    """The same text each time, which Tornado tags."""

    def get(self: Any) -> None:
        self.write("the same text")


class DefaultHeaders:
    """Headers of the application's, on errors too."""

    def set_default_headers(self: Any) -> None:
        self.set_header("X-Own", "on every answer")
        self.clear_header("Server")

    def get(self: Any) -> None:
        self.set_header("X-Lost", "cleared by an error")
        raise HTTPError(403, reason="Not Today")


class Dictionary:
    """JSON, as Tornado writes a dict, and a cookie."""

    def get(self: Any) -> None:
        self.set_cookie("seen", "1")
        self.write({"a": [1, None]})


class Empty:
    """A status without a body."""

    def get(self: Any) -> None:
        self.set_status(204)


class Elsewhere:
    """A redirect."""

    def get(self: Any) -> None:
        self.redirect("/elsewhere?a=1")


class Message:
    """An error with a message for the log."""

    def get(self: Any) -> None:
        raise HTTPError(400, "no %s", "such thing")


class Fault:
    """A fault of the program."""

    def get(self: Any) -> None:
        raise ValueError("a fault of ours")


OWN_HEADERS = ("Date", "X-Request-Id", "Server-Timing", "X-Outcome")
"""``Date`` is the moment's; the others are what a `SessionHandler` adds."""


@on_sqlite
@pytest.mark.parametrize("body", [Etag, DefaultHeaders, Dictionary, Empty, Elsewhere, Message, Fault])
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("GET", {"If-None-Match": "*"}),
        ("HEAD", {}),
        ("OPTIONS", {}),
        ("PUT", {}),
        ("PROPFIND", {}),
    ],
)
async def test_an_answer_is_the_one_of_tornados_own_handler(
    body: type,
    method: str,
    headers: dict[str, str],
    serve: Serve,
    database: Database,
    expect_log: ExpectLog,
    caplog: pytest.LogCaptureFixture,
):
    """Status, headers, body and log records: a handler that changes its base class keeps its face."""
    told: list[Any] = []
    for base in (RequestHandler, SessionHandler):
        handler = type("Handler", (body, base), {})
        client = serve(Application([("/", handler)], database=database, log_function=log_request))
        caplog.clear()
        with expect_log("tornado", r"^[45]\d\d |Uncaught exception", required=False):
            answer = await client.request(method, "/", headers=headers)
        records = [
            (each.name, each.levelname, each.getMessage().partition(" (127.0.0.1)")[0], each.exc_info is None)
            for each in caplog.records
            if each.name.startswith("tornado") and each.name != "tornado.access"
        ]
        kept = [(name, value) for name, value in answer.headers.get_all() if name not in OWN_HEADERS]
        told.append((answer.code, sorted(kept), answer.body, records))

    assert told[0] == told[1]


@on_sqlite
async def test_an_answer_that_has_not_changed_is_304(mount: Mount, notes: Notes):
    """By Tornado's own tag; the work of the request is kept as behind a 200."""

    class Handler(SessionHandler):
        read_only = False

        async def get(self) -> None:
            await self.run(add_note, self.session, text=self.get_argument("text"))
            self.write("the same text")

    client = mount(Handler)
    first = await client.get("/?text=one")
    second = await client.get("/?text=two", headers={"If-None-Match": first.headers["Etag"]})

    assert (first.code, second.code, second.body) == (200, 304, b"")
    assert second.headers["Etag"] == first.headers["Etag"]
    assert notes() == ["one", "two"]


async def test_a_fault_is_logged_as_tornado_does_without_the_databases_message(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    class Handler(SessionHandler):
        async def get(self) -> None:
            await self.run(misspell, self.session)

    client = mount(Handler)
    with (
        expect_log("tornado.application", r"^Uncaught exception GET /", level=logging.ERROR) as records,
        expect_log("tornado.access", "^500 "),
    ):
        await client.get("/")

    assert len(records) == 1
    assert records[0].exc_info is not None
    chain, error = [], records[0].exc_info[1]
    while error is not None:
        chain.append(str(error))
        error = error.__cause__ or error.__context__
    assert "withheld" in " ".join(chain)
    assert "txet" not in " ".join(chain)


# -- what a subclass finds of the answer


async def test_on_finish_and_what_runs_before_the_commit_find_the_answer(mount: Mount, notes: Notes):
    """Status, headers and body as they are sent, where the work may still be refused."""
    seen: list[tuple[int, str, bytes]] = []

    class Handler(SessionHandler):
        async def post(self) -> None:
            self.before_commit(self.keep_answer)
            self.set_status(201)
            self.set_header("X-Kind", "note")
            self.write("hel")
            self.write("lo")

        def keep_answer(self, session: Session) -> None:
            seen.append((self.answer.status, self._header("X-Kind"), self.answer.body))
            add_note(session, text=f"{self.answer.status} {self.answer.body.decode()}")

        def on_finish(self) -> None:
            seen.append((self.answer.status, self._header("X-Kind"), self.answer.body))
            super().on_finish()

        def _header(self, name: str) -> str:
            assert self.answer.headers is not None
            return self.answer.headers[name]

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.body) == (201, b"hello")
    assert seen == [(201, "note", b"hello")] * 2
    assert notes() == ["201 hello"]


@on_sqlite
async def test_the_answer_of_an_error_page_is_found_too(mount: Mount, notes: Notes):
    """`on_finish` runs for the handler that answers a COMMIT that failed as well."""
    seen: list[int] = []

    class Handler(SessionHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="undone", parent_id=NO_NOTE)
            self.write("done")

        def on_finish(self) -> None:
            seen.append(self.get_status())
            super().on_finish()

    assert (await mount(Handler).post("/")).code == 409
    assert seen == [200, 409]


# -- for type checkers

PREPARES = """
from collections.abc import Awaitable

from handlers import ApiHandler, SessionHandler


class Plain(SessionHandler):
    def prepare(self) -> None:
        super().prepare()


class Awaited(SessionHandler):
    async def prepare(self) -> None:
        await super().prepare()


class NotAwaited(SessionHandler):
    async def prepare(self) -> None:
        super().prepare()


class Returned(SessionHandler):
    def prepare(self) -> Awaitable[None] | None:
        return super().prepare()


class Below(Awaited):
    async def prepare(self) -> None:
        await super().prepare()


class Api(ApiHandler):
    async def prepare(self) -> None:
        await super().prepare()
"""


@pytest.mark.slow
def test_super_prepare_passes_a_strict_type_checker_awaited_and_not(tmp_path: Path):
    """And a type checker that is asked to find a mistake does find it."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(PREPARES)
    bad.write_text(f"{PREPARES}\n\nnumber: int = Plain.prepare\n")

    done = [
        subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--config-file=",
                "--strict",
                f"--cache-dir={tmp_path}",
                str(file),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        for file in (good, bad)
    ]

    assert done[0].returncode == 0, done[0].stdout + done[0].stderr
    assert done[1].returncode == 1
    assert done[1].stdout.count("error:") == 1


@on_sqlite
@pytest.mark.parametrize("name", ["Plain", "Awaited", "NotAwaited", "Returned", "Below", "Api"])
async def test_super_prepare_works_awaited_and_not(name: str, mount: Mount, notes: Notes):
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(PREPARES, namespace)
    base: type[SessionHandler] = namespace[name]

    class Handler(base):  # type: ignore[valid-type, misc]
        async def post(self) -> None:
            await self.run(add_note, self.session, text="kept")

    assert (await mount(Handler).post("/")).code == 200
    assert notes() == ["kept"]


async def test_an_application_has_its_own_attributes(mount: Mount, notes: Notes):
    """Of an existing handler, whose base class is changed: a statement of account, a summary of it."""

    class Handler(SessionHandler):
        instrumentation = "strings"

        def prepare(self) -> None:
            super().prepare()
            self.statements = ["of October"]
            self.attempts = self.transaction = None

        def summary(self) -> str:
            return f"{len(self.statements)} for {self.instrumentation}"

        async def get(self) -> None:
            self.write(self.summary())

    answer = await mount(Handler).get("/")

    assert (answer.code, answer.body) == (200, b"1 for strings")
