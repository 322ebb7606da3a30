"""The lending library, on each kind of driver; `served.py` has its process in the clone."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from conf import Settings
from db import Database
from server.app import make_app
from tests.examples.library.db.base import Base
from tests.examples.library.db.members import create_member
from tests.examples.library.handlers.routes import ABOUT, routes
from tests.examples.test_chat import read
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Answer, Client, Serve

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver("postgresql+asyncpg")]

PASSWORD = "correct horse"
OLD_LOANS = """
    INSERT INTO library_loans (book_id, member_id, due_time, return_time)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
    SELECT book_id, member_id, due_time, due_time FROM n, library_loans WHERE library_loans.id = 1
"""
"""More than Tornado's client hands over in one piece, which is 64 KiB."""

Headers = dict[str, str]


@pytest.fixture
def client(database: Database, settings: Settings, serve: Serve) -> Client:
    database.create_all(Base.metadata)
    return serve(make_app(settings, database, routes=routes(), about=ABOUT))


async def log_in(client: Client, database: Database, name: str) -> Headers:
    def add() -> None:
        with database.session_scope() as session:
            create_member(session, name=name, password=PASSWORD)

    await asyncio.to_thread(add)
    answer = await client.post("/login", {"name": name, "password": PASSWORD})
    assert answer.code == 204
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


async def add_book(client: Client, headers: Headers, title: str) -> int:
    return int((await client.post("/books", {"title": title}, headers=headers)).json()["id"])


async def lend(client: Client, headers: Headers, book_id: int, **more: str) -> Answer:
    return await client.post("/loans", {"book_id": book_id}, headers=headers | more)


async def test_without_a_log_in_nothing_is_lent(client: Client, sql: RawSql):
    answer = await client.post("/loans", {"book_id": 1})

    assert (answer.code, answer.json()["outcome"]) == (401, "not_applied")


@pytest.mark.parametrize(
    "given", [{"name": "Ada", "password": "wrong"}, {"name": "Eve", "password": PASSWORD}]
)
async def test_a_wrong_password_logs_no_member_in(
    client: Client, database: Database, sql: RawSql, given: dict[str, str]
):
    await log_in(client, database, "Ada")

    answer = await client.post("/login", given)

    assert (answer.code, "Set-Cookie" in answer.headers) == (401, False)
    assert sql("SELECT count(*) AS n FROM library_logins") == [{"n": 1}]


async def test_of_many_loans_of_one_book_at_once_one_is_kept(client: Client, database: Database, sql: RawSql):
    ada = await log_in(client, database, "Ada")
    book_id = await add_book(client, ada, "Emma")

    answers = await asyncio.gather(*(lend(client, ada, book_id) for _ in range(5)))

    assert sorted(answer.code for answer in answers) == [201, 409, 409, 409, 409]
    assert {answer.json().get("detail") for answer in answers} == {None, "the book is lent already"}
    assert sql("SELECT count(*) AS n FROM library_loans") == [{"n": 1}]


async def test_a_book_that_was_returned_is_lent_again(client: Client, database: Database):
    ada, bob = await log_in(client, database, "Ada"), await log_in(client, database, "Bob")
    book_id = await add_book(client, ada, "Emma")
    path = f"/loans/{(await lend(client, ada, book_id)).json()['id']}/return"

    of_another = await client.post(path, headers=bob)
    returned = await client.post(path, headers=ada)
    again = await client.post(path, headers=ada)

    assert (of_another.code, returned.code, again.code) == (404, 200, 409)
    assert (await lend(client, bob, book_id)).code == 201


async def test_a_loan_under_a_key_is_done_once_and_its_answer_is_the_members(
    client: Client, database: Database
):
    ada, bob = await log_in(client, database, "Ada"), await log_in(client, database, "Bob")
    book_id = await add_book(client, ada, "Emma")

    first, second = [await lend(client, ada, book_id, **{"Idempotency-Key": "k"}) for _ in range(2)]
    other = await lend(client, bob, book_id, **{"Idempotency-Key": "k"})

    assert (first.code, second.code, second.json()) == (201, 201, first.json())
    assert other.code == 409


async def test_what_is_overdue_is_reported_and_reminded_of_once_after_the_commit(
    client: Client, database: Database, sql: RawSql, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "library")
    ada = await log_in(client, database, "Ada")
    late = (await lend(client, ada, await add_book(client, ada, "Emma"))).json()["id"]
    await lend(client, ada, await add_book(client, ada, "Persuasion"))
    sql("UPDATE library_loans SET due_time = '2001-01-01 00:00:00' WHERE id = :late", late=late)

    report = (await client.get("/loans/overdue", headers=ada)).json()
    first, second = [await client.post("/loans/reminders", headers=ada) for _ in range(2)]
    await database.idle(5)

    assert [(each["id"], each["title"], each["name"]) for each in report] == [(late, "Emma", "Ada")]
    assert (first.json(), second.json()) == ({"count": 1}, {"count": 0})
    assert [each.getMessage() for each in caplog.records if each.name == "library"] == [
        "Ada: please return 'Emma'"
    ]


async def test_the_live_page_is_told_of_what_was_committed(client: Client, database: Database):
    ada = await log_in(client, database, "Ada")
    book_id = await add_book(client, ada, "<Emma>")
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/live/socket")

    await lend(client, ada, book_id)
    assert await read(socket) == {"changed": True}
    await lend(client, ada, book_id)  # refused: no further message comes before the answer to this one
    await socket.write_message("")

    assert await read(socket) == {"lent": ["<Emma>"]}
    assert b"<li>&lt;Emma&gt;</li>" in (await client.get("/live")).body
    socket.close()


async def test_the_export_has_all_loans_of_the_moment_at_which_it_began(
    client: Client, database: Database, sql: RawSql
):
    ada = await log_in(client, database, "Ada")
    for title in ("Emma", "War, and Peace"):
        await lend(client, ada, await add_book(client, ada, title))
    sql(OLD_LOANS)

    pieces: list[bytes] = []

    def delete_meanwhile(piece: bytes) -> None:
        pieces.append(piece)
        sql("DELETE FROM library_loans")

    url = f"http://127.0.0.1:{client.port}/loans.csv"
    await AsyncHTTPClient().fetch(url, headers=ada, streaming_callback=delete_meanwhile)

    assert len(pieces) > 1
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(b"".join(pieces).decode())))
    assert [(row["title"], row["member"], row["returned"]) for row in rows[:2]] == [
        ("Emma", "Ada", ""),
        ("War, and Peace", "Ada", ""),
    ]
    assert len(rows) == 2002
