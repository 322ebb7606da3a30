"""Idempotency-Key: the work is done once, and its answer given as often as it is asked for."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from handlers import ApiHandler
from handlers.idempotency import IdempotentHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import add_note
from tests.handlers.wire import Wire

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

BOOK = {"title": "a book"}


def keyed(key: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Idempotency-Key": key}}


async def test_a_repeated_request_gets_the_first_answer_byte_for_byte(client: Client, sql: RawSql):
    first = await client.post("/books", BOOK, **keyed("a"))
    again = await client.post("/books", BOOK, **keyed("a"))

    assert (first.code, again.code) == (201, 201)
    assert again.body == first.body
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert len(sql("SELECT id FROM books")) == 1


async def test_another_key_is_another_request(client: Client, sql: RawSql):
    for key in ("a", "b", None):
        assert (await client.post("/books", BOOK, **(keyed(key) if key else {}))).code == 201

    assert len(sql("SELECT id FROM books")) == 3


async def test_a_key_used_with_another_body_is_refused(client: Client, sql: RawSql):
    await client.post("/books", BOOK, **keyed("a"))

    response = await client.post("/books", BOOK | {"title": "another"}, **keyed("a"))

    assert (response.code, response.json()["outcome"]) == (422, "not_applied")
    assert len(sql("SELECT id FROM books")) == 1


async def test_a_key_used_with_another_query_is_refused(client: Client, sql: RawSql):
    """What the query asks for is as much of the request as its body."""
    assert (await client.post("/books?notify=yes", BOOK, **keyed("a"))).code == 201

    other = await client.post("/books?notify=no", BOOK, **keyed("a"))
    none = await client.post("/books", BOOK, **keyed("a"))
    again = await client.post("/books?notify=yes", BOOK, **keyed("a"))

    assert [other.code, none.code] == [422, 422]
    assert "body or query" in other.json()["detail"]
    assert (again.code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert len(sql("SELECT id FROM books")) == 1


async def test_a_content_type_in_other_words_is_the_same_request(client: Client, sql: RawSql):
    headers = {"Idempotency-Key": "a", "Content-Type": "application/json"}
    assert (await client.post("/books", BOOK, headers=headers)).code == 201

    headers["Content-Type"] = "application/json; charset=utf-8"
    again = await client.post("/books", BOOK, headers=headers)

    assert (again.code, again.headers["Idempotency-Replayed"]) == (201, "true")


async def test_a_refused_request_leaves_no_key(client: Client, sql: RawSql):
    """It did nothing, so its key stores nothing and the call runs again, with another body if need be."""
    assert (await client.post("/books", BOOK | {"title": ""}, **keyed("a"))).code == 422
    assert (await client.post("/shelves", {"name": "x"}, **keyed("t"))).code == 201
    assert (await client.post("/shelves", {"name": "x"}, **keyed("u"))).code == 409

    assert [row["key"] for row in sql("SELECT key FROM idempotency_keys")] == ["t"]
    assert (await client.post("/books", BOOK, **keyed("a"))).code == 201


async def test_a_key_counts_for_one_path(client: Client):
    assert (await client.post("/books", BOOK, **keyed("a"))).code == 201
    response = await client.post("/shelves", {"name": "x"}, **keyed("a"))

    assert (response.code, "Idempotency-Replayed" in response.headers) == (201, False)


async def test_twins_at_once_are_done_once(client: Client, sql: RawSql):
    """All wait for the first, and are told what it was told."""
    answers = await asyncio.gather(*(client.post("/books", BOOK, **keyed("twin")) for _ in range(8)))

    assert [answer.code for answer in answers] == [201] * 8
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert len(sql("SELECT id FROM books")) == 1


@pytest.mark.parametrize("key", ["x" * 256, "tab\tinside", "", " "])
async def test_a_key_that_is_none_is_refused(client: Client, sql: RawSql, key: str):
    response = await client.post("/books", BOOK, **keyed(key))

    assert response.code == 400
    assert sql("SELECT id FROM books") == []


async def test_the_longest_key_is_one(client: Client):
    assert (await client.post("/books", BOOK, **keyed("~" * 255))).code == 201


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_twin_that_waited_until_its_deadline_may_ask_again(
    client: Client, sql: RawSql, app, expect_log: ExpectLog
):
    """503 with Retry-After and not 504: what it waited for is the time of another request."""
    app.settings["request_timeout_s"] = 0.5
    with sql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO idempotency_keys (method, path, key, fingerprint) VALUES ('POST', '/books', 'a', '')"
        )
        with expect_log("tornado.access", "503 POST"), expect_log("onfinish", "under way", required=False):
            response = await client.post("/books", BOOK, **keyed("a"))

    assert (response.code, response.json()["outcome"]) == (503, "not_applied")
    assert "Retry-After" in response.headers


async def test_a_key_is_free_again_after_a_day(client: Client, sql: RawSql):
    await client.post("/books", BOOK, **keyed("a"))
    sql("UPDATE idempotency_keys SET create_time = '2020-01-01 00:00:00.000000'")

    response = await client.post("/books", BOOK | {"title": "another"}, **keyed("a"))

    assert (response.code, "Idempotency-Replayed" in response.headers) == (201, False)


async def test_a_request_that_settled_early_is_done_once_and_its_answer_is_not_kept(
    mount: Mount, notes: Notes
):
    """The answer came behind the COMMIT that kept the key: its repeat is told that the work was applied."""

    class Handler(IdempotentHandler, ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="once")
            await self.commit()
            self.set_status(201)

    client = mount(Handler)
    first, again = [await client.post("/", **keyed("a")) for _ in range(2)]

    assert (first.code, again.code) == (201, 409)
    assert "was not kept" in again.json()["detail"]
    assert notes() == ["once"]


class Written(IdempotentHandler, ApiHandler):
    """Writes a note, and answers at length."""

    async def post(self, path: str = "") -> None:
        await self.run(add_note, self.session, text=path[-1:] or "written")
        self.write("12345" * 1000)


async def test_an_answer_that_left_compressed_is_replayed_plain_where_plain_is_accepted(
    mount: Mount, notes: Notes
):
    async with Wire(mount(Written, compress_response=True).port) as wire:
        bodies = []
        for accepted in ("gzip", "gzip", "identity"):
            wire.send(
                "POST / HTTP/1.1", "Content-Length: 0", "Idempotency-Key: a", f"Accept-Encoding: {accepted}"
            )
            answer = await wire.answer()
            is_compressed = answer.headers.get("Content-Encoding") == "gzip"
            assert is_compressed == (accepted == "gzip")
            bodies.append(gzip.decompress(answer.body) if is_compressed else answer.body)

    assert bodies == [b"12345" * 1000] * 3
    assert notes() == ["written"]


async def test_a_path_may_be_longer_than_what_is_kept_of_it(mount: Mount, notes: Notes):
    """Two long paths that differ at their ends are two requests, and each is replayed."""
    client = mount(Written, path="/(.*)")
    codes = [
        (await client.post("/" + "a" * 2_000 + end, {}, **keyed("a"))).headers.get("Idempotency-Replayed")
        for end in "xyx"
    ]

    assert codes == [None, None, "true"]
    assert notes() == ["x", "y"]
