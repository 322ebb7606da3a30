"""What is kept and what is undone."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from tornado.web import Finish, HTTPError

from db import Database
from db.errors import Conflict, Invalid, NotFound
from handlers import ApiHandler, Problem
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import NO_NOTE, add_note, list_texts

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver("postgresql+asyncpg")]

End = Callable[[ApiHandler], object]


def raising(error: BaseException) -> End:
    """An end that raises."""

    def end(handler: ApiHandler) -> None:
        raise error

    return end


def ended_with(status: int, body: str = "") -> End:
    """An end that sets a status and raises nothing."""

    def end(handler: ApiHandler) -> None:
        handler.set_status(status)
        handler.write(body) if body else None

    return end


def not_found_by_finish(handler: ApiHandler) -> None:
    handler.set_status(404)
    raise Finish("nothing here")


ENDS: dict[str, tuple[End, int, bool]] = {
    "returns": (lambda handler: None, 200, True),
    "writes": (lambda handler: handler.write("done"), 200, True),
    "calls finish": (lambda handler: handler.finish("done"), 200, True),
    "calls write_json": (lambda handler: handler.write_json({}, 201), 201, True),
    "has no content": (ended_with(204), 204, True),
    "redirects": (lambda handler: handler.redirect("/elsewhere"), 302, True),
    "redirects for good": (lambda handler: handler.redirect("/elsewhere", permanent=True), 301, True),
    "has a status just below 400": (ended_with(399), 399, True),
    "raises Finish": (raising(Finish("done")), 200, True),
    "raises Finish with a bad status": (not_found_by_finish, 404, False),
    "raises a status without a body": (raising(HTTPError(204)), 204, False),
    "raises that nothing has changed": (raising(HTTPError(304)), 304, False),
    "raises a status that is no error": (raising(HTTPError(302)), 302, False),
    "sends an error that has no body": (lambda handler: handler.send_error(204), 204, False),
    "sets 400 without raising": (ended_with(400, "no"), 400, False),
    "sets 404 without raising": (ended_with(404, "no"), 404, False),
    "calls send_error": (lambda handler: handler.send_error(403), 403, False),
    "raises HTTPError(302)": (raising(HTTPError(302)), 302, False),
    "raises HTTPError(404)": (raising(HTTPError(404)), 404, False),
    "raises HTTPError(503)": (raising(HTTPError(503)), 503, False),
    "raises a Problem": (raising(Problem(418, "no coffee")), 418, False),
    "raises NotFound": (raising(NotFound("note", 1)), 404, False),
    "raises Conflict": (raising(Conflict("not now")), 409, False),
    "raises Invalid": (raising(Invalid("no such team", pointer="/team_id")), 422, False),
}


@pytest.mark.parametrize("end", ENDS)
async def test_kept_if_nothing_was_raised_and_the_status_is_below_400(
    end: str, mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The table of what is kept and undone; the access line says which, and all is back with the answer."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            ENDS[end][0](self)

    _, status, kept = ENDS[end]
    client = mount(Handler)
    line = rf"^{status} POST / .* {'kept' if kept else 'undone'} "
    with expect_log("tornado.access", line, level=logging.INFO) as lines:
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == status
    assert notes() == (["written"] if kept else [])
    assert len(lines) == 1
    if status >= 400 and end.startswith("raises") and "Finish" not in end:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["outcome"] == "not_applied"


async def test_a_handler_that_raises_is_a_500_and_undone(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """An unforeseen error: 500 without a word about it, its stack in the log, nothing kept."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            raise ValueError("the secret of the matter")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"ValueError: the secret(.|\n)*Traceback(.|\n)*in post"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert "secret" not in answer.body.decode()
    assert notes() == []


async def test_what_is_raised_after_finish_changes_nothing(mount: Mount, notes: Notes, expect_log: ExpectLog):
    """The outcome is decided when ``finish()`` is called; a later error is logged, and the work is kept."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.finish("done")
            raise ValueError("too late")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"ValueError: too late"),
        expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.body) == (200, b"done")
    assert notes() == ["written"]


async def test_a_status_that_is_set_after_finish_changes_nothing(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """It comes too late to undo anything, and the access line has the status that the client was told."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            self.finish("done")
            self.set_status(500)

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO):
        answer = await client.post("/")

    assert answer.code == 200
    assert notes() == ["written"]


class Late(ApiHandler):
    """Writes what is refused at COMMIT only; has error answers and headers of its own."""

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "https://board.example")

    async def post(self) -> None:
        await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
        self.set_header("X-Of-The-Success", "1")
        self.set_cookie("of-the-success", "1")
        self.set_status(201)
        self.finish({"ok": True})

    def write_error(self, status_code: int, **kwargs: object) -> None:
        self.finish({"own": status_code, "outcome": self.outcome})


async def test_a_commit_that_fails_is_not_reported_as_success(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A constraint that speaks only at COMMIT: 409 through the handler's own error answer and headers.

    Nothing is kept, the one access line says so, and nothing of the success ever reached the socket.
    """
    client = mount(Late)
    with (
        expect_log("tornado.access", r"^409 POST / .* undone ", level=logging.INFO) as lines,
        expect_log("tornado.access", r"^2\d\d POST", level=logging.INFO, required=False) as successes,
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 409
    assert answer.json() == {"own": 409, "outcome": "not_applied"}
    assert answer.headers["Access-Control-Allow-Origin"] == "https://board.example"
    assert "X-Of-The-Success" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    assert notes() == []
    assert (len(lines), successes) == (1, [])


async def test_after_a_commit_that_failed_the_connection_is_clean(
    mount: Mount, database: Database, notes: Notes
):
    """The next user of the connection commits its own work, and nothing of what was refused before."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            text = self.get_argument("text")
            await self.run(add_note, self.session, text=text, parent_id=NO_NOTE if text == "orphan" else None)

    client = mount(Handler)
    refused = await client.post("/?text=orphan")
    kept = await client.post("/?text=second")

    assert (refused.code, kept.code) == (409, 200)
    assert notes() == ["second"]


async def test_a_failing_commit_behind_raise_finish_is_answered(
    mount: Mount, database: Database, notes: Notes
):
    """``raise Finish`` with a COMMIT that fails is a 409, and does not hang."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            raise Finish("done")

    client = mount(Handler)
    answer = await client.post("/", request_timeout=5)

    assert answer.code == 409
    assert lent(database) == {}
    assert notes() == []


async def test_try_round_finish_does_not_hide_a_failing_commit(mount: Mount, notes: Notes):
    """A handler that catches everything round ``self.finish()`` cannot turn a failed COMMIT into a 200."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            try:
                self.finish("done")
            except Exception:  # noqa: BLE001  # that is what is tested
                self.clear()

    client = mount(Handler)
    answer = await client.post("/")

    assert answer.code == 409
    assert notes() == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_an_error_that_was_caught_leaves_nothing_to_keep(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog, sql: RawSql
):
    """PostgreSQL aborts a transaction at its first error, and answers COMMIT with a silent ROLLBACK.

    A handler that caught the error and finishes with 200 would tell its client a lie; it is a 500.
    """

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            try:
                await self.run(lambda: self.session.connection().exec_driver_sql("SELECT 1 / 0"))
            except Exception:  # noqa: BLE001  # that is what is tested
                self.finish("never mind")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"TransactionAborted.*begin_nested"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert answer.json()["outcome"] == "not_applied"
    assert notes() == []


async def test_a_flush_that_failed_and_was_caught_leaves_nothing_to_keep(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """After a failed flush the session has rolled back by itself: a 200 is an error, on both databases.

    The log names the way out, and repeats nothing of the statement or of the rows.
    """

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="pell-mell")
            try:
                await self.run(add_note, self.session, text="pell-mell")
            except Conflict:
                self.finish("never mind")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"TransactionAborted.*begin_nested") as records,
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 500
    assert notes() == []
    assert not any(word in record.getMessage() for record in records for word in ("pell-mell", "INSERT"))


async def test_a_savepoint_keeps_the_rest(mount: Mount, notes: Notes):
    """A statement guarded by ``begin_nested()`` may fail; what came before and after it is kept."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="first")
            await self.run(self.try_again)
            await self.run(add_note, self.session, text="second")
            self.write_json(await self.run(list_texts, self.session))

        def try_again(self) -> None:
            from sqlalchemy.exc import IntegrityError

            with pytest.raises(IntegrityError), self.session.begin_nested():
                add_note(self.session, text="first")

    client = mount(Handler)
    answer = await client.post("/")

    assert answer.json() == ["first", "second"]
    assert notes() == ["first", "second"]


async def test_nothing_is_in_the_database_before_the_answer_is(mount: Mount, notes: Notes):
    """Acknowledged means committed, and not the other way round: a write cannot be read until its end."""
    seen: list[list[str]] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            seen.append(notes())

    client = mount(Handler)
    await client.post("/")

    assert seen == [[]]
    assert notes() == ["written"]


async def test_a_request_without_sql_takes_no_connection(mount: Mount, database: Database):
    """The session costs nothing until it is used: no slot, no connection."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            self.write_json(lent(database))

    client = mount(Handler)
    answer = await client.get("/")

    assert answer.json() == {"units": 1}
    assert lent(database) == {}
