"""The face of a handler is its own: the kernel's refusals are rendered by its `write_error`."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text as sql_text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.errors import Invalid, NotFound, PreconditionFailed
from handlers import ApiHandler, Problem, SessionHandler
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer
from tests.fixtures.waiting import wait_until
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import NO_NOTE, add_note, take_long

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

REQUEST_ID = "asked-by-the-client"
HTML = "text/html; charset=UTF-8"


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One slot each, and a short wait for it."""
    return DatabaseSettings(url=database_url, pool_size=1, pool_timeout_s=0.2)


class Plain(SessionHandler):
    """Has Tornado's own page."""


class Html(SessionHandler):
    """Has a page of the application's, which is made of the error."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        detail = error.detail if isinstance(error, Problem) else "no HTTPError"
        self.finish(f"<h1>{status_code} {self._reason}</h1><p>{detail}</p>")


Face = type[SessionHandler]

faces = pytest.mark.parametrize("face", [Plain, Html, ApiHandler])


class Refusal(NamedTuple):
    """How an error of the kernel's is answered, whatever the face."""

    status: int
    detail: str
    outcome: str = "not_applied"
    retry_after: str | None = None


def shown_as(face: Face, refusal: Refusal, answer: Answer) -> None:
    """Hold an answer against what its handler's face makes of a refusal."""
    status, reason = refusal.status, http.client.responses[refusal.status]
    assert answer.code == status
    assert answer.headers["X-Request-Id"] == REQUEST_ID
    assert answer.headers.get_list("Retry-After") == ([refusal.retry_after] if refusal.retry_after else [])
    if face is ApiHandler:
        problem = answer.json()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "X-Outcome" not in answer.headers
        assert (problem["status"], problem["outcome"]) == (status, refusal.outcome)
        assert problem["request_id"] == REQUEST_ID
        assert refusal.detail in problem["detail"]
        return
    assert answer.headers["Content-Type"] == HTML
    assert answer.headers.get_list("X-Outcome") == [refusal.outcome]
    page = answer.body.decode()
    if face is Plain:
        told = f"{status}: {reason}"
        assert page == f"<html><title>{told}</title><body>{told}</body></html>"
    else:
        assert page.startswith(f"<h1>{status} {reason}</h1>")
        assert refusal.detail in page


@contextlib.contextmanager
def logged(expect_log: ExpectLog, face: Face, status: int, *, error: str | None = None) -> Iterator[None]:
    """The records of an error from 500 on: the access line, and the error where it is logged at all."""
    with contextlib.ExitStack() as expected:
        if status >= 500:
            expected.enter_context(expect_log("tornado.access", f"^{status} "))
        if error is not None:
            logger = "onfinish.handlers" if face is ApiHandler else "tornado.general"
            expected.enter_context(expect_log(logger, error))
        yield


async def ask(client: Any, method: str = "POST") -> Answer:
    body = b"" if method == "POST" else None
    answer: Answer = await client.request(method, "/", body, headers={"X-Request-Id": REQUEST_ID})
    return answer


def find_nothing(session: Session) -> None:
    add_note(session, text="undone")
    raise NotFound("note", 7)


def find_another_version(session: Session) -> None:
    add_note(session, text="undone")
    raise PreconditionFailed("the note is at version 3")


def find_a_fault(session: Session) -> None:
    add_note(session, text="undone")
    raise Invalid("the text is empty", pointer="/text")


def add_twice(session: Session) -> None:
    add_note(session, text="undone")
    add_note(session, text="undone")


def add_orphan(session: Session) -> None:
    add_note(session, text="undone", parent_id=NO_NOTE)


@faces
@pytest.mark.parametrize(
    ("work", "refusal"),
    [
        (find_nothing, Refusal(404, "no note 7")),
        (add_twice, Refusal(409, "the data as it stands does not allow this")),
        (find_another_version, Refusal(412, "the note is at version 3")),
        (find_a_fault, Refusal(422, "the text is empty")),
        (add_orphan, Refusal(409, "")),  # which the database refuses at COMMIT, when the handler has finished
    ],
)
async def test_a_refusal_of_the_data_is_a_page_of_the_handlers_own(
    work: Any, refusal: Refusal, face: Face, mount: Mount, notes: Notes
):
    class Handler(face):  # type: ignore[valid-type, misc]
        async def post(self) -> None:
            await self.run(work, self.session)
            self.set_header("X-Success", "1")
            self.write("done")

    answer = await ask(mount(Handler))

    shown_as(face, refusal, answer)
    assert "X-Success" not in answer.headers
    assert notes() == []


@faces
async def test_a_full_pool_is_a_page_of_the_handlers_own(
    face: Face, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    class Handler(face):  # type: ignore[valid-type, misc]
        async def post(self) -> None:
            await self.run(add_note, self.session, text="undone")

    client = mount(Handler)
    async with database.unit_of_work() as holder:
        await holder.run(add_note, holder.session, text="kept")
        with logged(expect_log, face, 503, error="503 .*"):
            answer = await ask(client)

    shown_as(face, Refusal(503, "taken", retry_after="1"), answer)
    assert notes() == ["kept"]


@on_sqlite
@faces
async def test_a_service_that_stops_answers_with_a_page_of_the_handlers_own(
    face: Face, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    class Handler(face):  # type: ignore[valid-type, misc]
        async def post(self) -> None:
            await self.run(add_note, self.session, text="never")

    with logged(expect_log, face, 503, error="shutting down"):
        answer = await ask(mount(Handler, refuses_requests_since=0.0))

    shown_as(face, Refusal(503, "shutting down", retry_after="5"), answer)
    assert notes() == []


@faces
async def test_a_deadline_is_a_page_of_the_handlers_own(
    face: Face, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    class Handler(face):  # type: ignore[valid-type, misc]
        timeout_s = 0.25

        async def post(self) -> None:
            await self.run(add_note, self.session, text="undone")
            await self.run(take_long, self.session)

    with logged(expect_log, face, 504):
        answer = await ask(mount(Handler))

    shown_as(face, Refusal(504, "time"), answer)
    assert notes() == []


@on_postgresql
@faces
async def test_an_unknown_outcome_is_a_page_of_the_handlers_own(
    face: Face, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """COMMIT does not answer in time: the handler has finished, and its success is dropped."""

    class Handler(face):  # type: ignore[valid-type, misc]
        timeout_s = 0.6

        async def post(self) -> None:
            await self.run(add_note, self.session, text="slow to commit")

    with (
        logged(expect_log, face, 503, error="COMMIT"),
        expect_log("onfinish.db", "connection is cut"),
        expect_log("onfinish.db", "could not be rolled back", required=False),
    ):
        answer = await ask(mount(Handler))

    shown_as(face, Refusal(503, "", outcome="unknown", retry_after="1"), answer)
    assert wait_until(lambda: notes() == ["slow to commit"], timeout_s=5)


@on_sqlite
@faces
async def test_an_error_after_an_early_commit_says_that_the_work_is_applied(
    face: Face, mount: Mount, notes: Notes
):
    class Handler(face):  # type: ignore[valid-type, misc]
        async def post(self) -> None:
            await self.run(add_note, self.session, text="kept")
            await self.commit()
            raise Problem(409, "too late")

    answer = await ask(mount(Handler))

    shown_as(face, Refusal(409, "too late", outcome="applied"), answer)
    assert notes() == ["kept"]


@on_sqlite
async def test_what_an_error_asks_for_is_sent_with_an_applications_own_problem_too(
    mount: Mount, notes: Notes
):
    """Tornado has cleared its headers; a body with the outcome in it needs no header for that."""

    class Handler(SessionHandler):
        def post(self) -> None:
            raise Problem(429, "slower", headers={"Retry-After": "7"})

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.set_header("Content-Type", "application/problem+json")
            self.finish(json.dumps({"status": status_code, "outcome": self.outcome}))

    answer = await ask(mount(Handler))

    assert (answer.code, answer.json()) == (429, {"status": 429, "outcome": "not_applied"})
    assert answer.headers["Retry-After"] == "7"
    assert "X-Outcome" not in answer.headers


# -- tracebacks


MISSPELT = "SELECT txet FROM notes WHERE text = :text"
ROW = "jane@example.org"


def misspell(session: Session) -> None:
    session.execute(sql_text(MISSPELT), {"text": ROW})


@faces
@pytest.mark.parametrize("database_messages", [False, True])
async def test_a_served_traceback_has_no_data_of_the_databases_unless_that_is_set(
    database_messages: bool, face: Face, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    class Handler(face):  # type: ignore[valid-type, misc]
        async def get(self) -> None:
            await self.run(misspell, self.session)

    client = mount(Handler, serve_traceback=True, database_messages=database_messages)
    logger = "onfinish.handlers" if face is ApiHandler else "tornado.application"
    with expect_log(logger, "NotInSchema|Uncaught exception"), expect_log("tornado.access", "^500 "):
        answer = await client.get("/")

    shown = answer.body.decode()
    assert answer.code == 500
    if face is Plain:
        assert answer.headers["Content-Type"] == "text/plain"
    if face is not Html:
        assert "in misspell" in shown
        assert ("SELECT txet" in shown) == database_messages
        assert database_messages or ROW not in shown
