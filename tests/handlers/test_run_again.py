"""Requests that the database refused as a conflict, and that are run again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from sqlalchemy import text as sql_text
from sqlalchemy.orm import Session
from tornado.web import stream_request_body

from conf import DatabaseSettings
from db import Database
from db.errors import RetryableConflict
from handlers import ApiHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import add_note, change_note
from tests.handlers.waiting import until

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """A SQLite file that another process holds is given up on soon."""
    return DatabaseSettings(url=database_url, busy_timeout_s=0.15)


def conflict(session: Session) -> None:
    """What the database does when it breaks a tie against this transaction."""
    raise RetryableConflict("deadlock")


@on_postgresql
async def test_of_two_requests_in_a_deadlock_both_are_answered(
    mount: Mount, database: Database, notes: Notes, sql: RawSql, expect_log: ExpectLog
):
    """Each locks what the other one wants: one is rolled back and run again, and both end with 2xx."""
    name = sql("SELECT current_database() AS name")[0]["name"]
    sql(f"ALTER DATABASE {name} SET deadlock_timeout = '50ms'")
    sql("INSERT INTO notes (text) VALUES ('a'), ('b')")
    both_hold_one = asyncio.Barrier(2)
    attempts: list[str] = []

    class Handler(ApiHandler):
        async def post(self, first: str, second: str) -> None:
            attempts.append(first)
            await self.run(change_note, self.session, text=first, to=first)
            await self.run(self.lock, first)
            if len(attempts) <= 2:
                await both_hold_one.wait()
            await self.run(self.lock, second)
            await self.run(add_note, self.session, text=f"{first} then {second}")
            self.set_status(201)

        def lock(self, text: str) -> None:
            self.session.execute(sql_text("UPDATE notes SET text = text WHERE text = :text"), {"text": text})

    client = mount(Handler, r"/(.)/(.)")
    with (
        expect_log("onfinish.handlers", r"POST Handler .*retrying \(deadlock\)", level=logging.INFO) as again,
        expect_log("tornado.access", r"^201 POST .* kept ", level=logging.INFO) as lines,
    ):
        answers = await asyncio.gather(client.post("/a/b"), client.post("/b/a"))
        assert lent(database) == {}

    assert [answer.code for answer in answers] == [201, 201]
    assert sorted(notes()) == ["a", "a then b", "b", "b then a"]
    assert sorted(attempts[:2]) == ["a", "b"]
    assert (len(attempts), len(again), len(lines)) == (3, 1, 2)


@on_postgresql
async def test_a_serialization_failure_is_run_again(
    mount: Mount, database: Database, notes: Notes, sql: RawSql
):
    """The change of another transaction got in between: the second attempt sees it, and works on that."""
    sql("INSERT INTO notes (text) VALUES ('old')")
    attempts: list[str] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(self.work_on_a_snapshot)

        def work_on_a_snapshot(self) -> None:
            self.session.execute(sql_text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            seen = self.session.execute(sql_text("SELECT text FROM notes")).scalar_one()
            attempts.append(seen)
            if len(attempts) == 1:
                sql("UPDATE notes SET text = 'theirs'")
            self.session.execute(sql_text("UPDATE notes SET text = text || ', ours'"))

    answer = await mount(Handler).post("/")
    assert lent(database) == {}

    assert answer.code == 200
    assert attempts == ["old", "theirs"]
    assert notes() == ["theirs, ours"]


@on_postgresql
async def test_a_conflict_at_commit_is_run_again(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The database says so only when COMMIT is sent: the held answer is dropped, the second one leaves."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(len(attempts) + 1)
            await self.run(add_note, self.session, text="conflicts once")
            self.set_header("X-Attempt", str(attempts[-1]))
            self.write(f"attempt {attempts[-1]}")

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 POST / .* kept ", level=logging.INFO) as lines:
        answer = await client.post("/")
        assert lent(database) == {}

    assert (answer.code, answer.body) == (200, b"attempt 2")
    assert answer.headers.get_list("X-Attempt") == ["2"]
    assert attempts == [1, 2]
    assert notes() == ["conflicts once"]
    assert len(lines) == 1


@on_sqlite
async def test_a_file_that_another_process_holds_is_tried_again(
    mount: Mount, database: Database, notes: Notes, sql: RawSql, expect_log: ExpectLog
):
    """SQLite is busy for longer than the busy timeout: run again until the other one is done."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"retrying \(busy\)", level=logging.INFO) as retries,
        sql.connect() as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        posted = asyncio.create_task(client.post("/"))
        await until(lambda: retries)
        other.execute("ROLLBACK")
        answer = await posted
        assert lent(database) == {}

    assert answer.code == 200
    assert notes() == ["written"]


async def test_after_three_attempts_it_is_a_503(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """The conflict stays: the client is told when to ask again, nothing is kept, and one line is logged."""
    attempts: list[ApiHandler] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(self)
            await self.run(add_note, self.session, text="written")
            await self.run(conflict, self.session)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"^503 .*conflict \(deadlock\)") as warnings,
        expect_log("tornado.access", r"^503 POST / .* undone ") as lines,
    ):
        answer = await client.post("/")
        assert lent(database) == {}

    assert answer.code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["outcome"] == "not_applied"
    assert notes() == []
    assert len(set(map(id, attempts))) == 3
    assert (len(warnings), len(lines)) == (1, 1)


async def test_a_handler_may_opt_out(mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog):
    """``retry = False``: one attempt, and a 503."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        retry = False

        async def post(self) -> None:
            attempts.append(1)
            await self.run(add_note, self.session, text="written")
            await self.run(conflict, self.session)

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"^503 "), expect_log("tornado.access", r"^503 "):
        answer = await client.post("/")

    assert (answer.code, answer.headers["Retry-After"]) == (503, "1")
    assert attempts == [1]
    assert notes() == []


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_all_methods_are_run_again(method: str, mount: Mount, database: Database):
    """A read may be refused as a conflict too."""
    attempts: list[str] = []

    class Handler(ApiHandler):
        async def get(self) -> None:
            attempts.append(self.request.method or "")
            if len(attempts) == 1:
                await self.run(conflict, self.session)

        post = patch = delete = get

    answer = await mount(Handler).request(method, "/", b"" if method in ("POST", "PATCH") else None)
    assert lent(database) == {}

    assert answer.code == 200
    assert attempts == [method, method]


BOUNDARY = "a5b3"
UPLOAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n'
    f"Content-Type: image/png\r\n\r\nPNG\r\n--{BOUNDARY}--\r\n"
).encode()


async def test_the_second_attempt_is_asked_what_the_first_one_was(mount: Mount, notes: Notes):
    """Arguments and files are there once; initialize's and the path's arguments are there again.

    So are body, cookies, headers, and what a proxy said of the caller; the request's id is the same.
    """
    seen: list[dict[str, Any]] = []

    class Handler(ApiHandler):
        def initialize(self, shelf: str) -> None:
            self.shelf = shelf

        async def post(self, *path: str, **named: str) -> None:
            request = self.request
            seen.append(
                {
                    "shelf": self.shelf,
                    "path": (path, named),
                    "arguments": request.arguments,
                    "query": request.query_arguments,
                    "body arguments": request.body_arguments,
                    "files": {name: [f.filename for f in files] for name, files in request.files.items()},
                    "body": request.body,
                    "cookie": self.get_cookie("basket"),
                    "headers": sorted(request.headers.get_all()),
                    "caller": (request.remote_ip, request.protocol, request.host, request.full_url()),
                    "version": request.version,
                    "request id": self.request_id,
                    "signed in": self.current_user,
                }
            )
            if len(seen) < 3:
                await self.run(conflict, self.session)
            self.write({"request_id": self.request_id})

        def get_current_user(self) -> str | None:
            return self.request.headers.get("X-User")

    client = mount(Handler, r"/(?P<shelf_id>\d+)/x", initialize={"shelf": "top"}, server={"xheaders": True})
    answer = await client.post(
        "/7/x?q=1&q=2&colour=blue",
        UPLOAD,
        headers={
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Proto": "https",
            "X-Request-Id": "the-same",
            "X-User": "ada",
            "Cookie": "basket=42",
        },
    )

    first, second, third = seen
    assert first == second == third
    assert first["arguments"] == {"q": [b"1", b"2"], "colour": [b"blue", b"red"]}
    assert first["files"] == {"photo": ["a.png"]}
    assert first["path"] == ((), {"shelf_id": "7"})
    assert first["caller"][:2] == ("203.0.113.7", "https")
    assert first["request id"] == "the-same"
    assert answer.headers["X-Request-Id"] == "the-same"
    assert answer.json() == {"request_id": "the-same"}


async def test_a_generated_request_id_is_the_same_at_every_attempt(mount: Mount, expect_log: ExpectLog):
    """An id of our own belongs to the request, not to the attempt."""
    ids: list[str] = []

    class Handler(ApiHandler):
        async def get(self) -> None:
            ids.append(self.request_id)
            if len(ids) == 1:
                await self.run(conflict, self.session)

    client = mount(Handler)
    with expect_log("tornado.access", r"^200 GET / ", level=logging.INFO) as lines:
        answer = await client.get("/")

    assert ids == [answer.headers["X-Request-Id"]] * 2
    assert lines[0].getMessage().endswith(ids[0])


async def test_nothing_of_the_first_attempt_is_in_the_second_ones_answer(mount: Mount, notes: Notes):
    """Headers, cookies, status, body and the handler's own attributes are those of the last attempt."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        leftover: str | None = None

        async def post(self) -> None:
            attempts.append(1)
            assert self.leftover is None
            self.write(f"attempt {len(attempts)}")
            if len(attempts) == 1:
                self.leftover = "of the first"
                self.set_header("X-First", "1")
                self.set_cookie("first", "1")
                self.set_status(202)
                await self.run(add_note, self.session, text="first")
                await self.run(conflict, self.session)
            await self.run(add_note, self.session, text="second")

    answer = await mount(Handler).post("/")

    assert (answer.code, answer.body) == (200, b"attempt 2")
    assert "X-First" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    assert notes() == ["second"]


async def test_after_an_early_commit_it_is_not_run_again(mount: Mount, notes: Notes, expect_log: ExpectLog):
    """What is committed would be done twice: a 503 that says what was applied."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            attempts.append(1)
            await self.run(add_note, self.session, text="written")
            await self.commit()
            raise RetryableConflict("deadlock")

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"^503 "), expect_log("tornado.access", r"^503 POST / .* kept "):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (503, "applied")
    assert attempts == [1]
    assert notes() == ["written"]


async def test_a_streamed_upload_is_not_run_again(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """Its body is gone when the conflict comes: a 503."""
    attempts: list[int] = []

    @stream_request_body
    class Handler(ApiHandler):
        def data_received(self, chunk: bytes) -> None:
            pass

        async def post(self) -> None:
            attempts.append(1)
            await self.run(add_note, self.session, text="written")
            await self.run(conflict, self.session)

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"^503 "), expect_log("tornado.access", r"^503 POST / .* undone "):
        answer = await client.post("/", b"body")
        assert lent(database) == {}

    assert answer.code == 503
    assert attempts == [1]
    assert notes() == []


async def test_the_deadline_is_one_for_all_attempts(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """A second attempt has only the time that the first one left."""
    attempts: list[int] = []

    class Handler(ApiHandler):
        timeout_s = 0.8

        async def post(self) -> None:
            attempts.append(1)
            await self.run(add_note, self.session, text="written")
            await asyncio.sleep(0.5)
            await self.run(conflict, self.session)

    client = mount(Handler)
    began = asyncio.get_running_loop().time()
    with expect_log("tornado.access", r"^504 POST / .* undone "):
        answer = await client.post("/")
    took_s = asyncio.get_running_loop().time() - began

    assert answer.code == 504
    assert len(attempts) == 2
    assert 0.8 <= took_s < 1.0 + 0.8
    assert notes() == []


async def test_each_attempt_gives_its_slot_back_first(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog
):
    """With a conflict under way nothing is held between the attempts, so others get their turn."""
    held: list[dict[str, int]] = []

    class Handler(ApiHandler):
        def prepare(self) -> None:
            held.append(lent(database))
            super().prepare()

        async def post(self) -> None:
            await self.run(add_note, self.session, text="written")
            if len(held) < 3:
                await self.run(conflict, self.session)

    answer = await mount(Handler).post("/")

    assert answer.code == 200
    assert held == [{}, {}, {}]
    assert notes() == ["written"]


async def test_a_conflict_in_a_task_of_a_group_runs_the_request_again(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """A TaskGroup raises nothing but groups, also where its one task was refused."""
    attempts = 0

    class Handler(ApiHandler):
        async def post(self) -> None:
            nonlocal attempts
            attempts += 1
            await self.run(add_note, self.session, text=f"attempt {attempts}")
            async with asyncio.TaskGroup() as tasks:
                if attempts == 1:
                    tasks.create_task(self.run(conflict, self.session))
            self.set_status(201)

    client = mount(Handler)
    with expect_log("onfinish.handlers", r"retrying \(deadlock\)", level=logging.INFO):
        answer = await client.post("/")

    assert answer.code == 201
    assert notes() == ["attempt 2"]
