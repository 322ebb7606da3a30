"""``/-/requests``: what a request did, statement by statement."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.websocket import websocket_connect

from handlers import ApiHandler, SessionWebSocketHandler
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER
from tests.server.pages.requests.conftest import beside, kept, page_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
through_asyncpg = pytest.mark.every_driver("postgresql+asyncpg")


@through_asyncpg
@pytest.mark.gen_test
async def test_a_request_is_shown_with_its_statements_lines_commit_and_answer(seen: Seen):
    """In the order of their times, all of them within the request's own."""
    answer = await seen.client.post("/shelves", {"name": "Store"}, headers={"X-Request-Id": "abc.1"})
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")

    assert answer.code == 201
    assert (found["name"], found["status"], found["outcome"]) == ("POST /shelves", 201, "kept")
    assert found["handler"] == "ShelvesHandler.post"
    [recorded] = found["units"]
    [insert] = [each for each in recorded["statements"] if "INTO shelves" in each["sql"]]
    assert insert["line"]["function"] == "create_shelf"
    assert insert["line"]["text"] == "session.flush()"
    assert found["statements"] == sum(each["counts"] for each in recorded["statements"])
    times = [recorded["connected_ms"], insert["at_ms"], recorded["commit"]["at_ms"], recorded["ended_ms"]]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= found["took_ms"] + 1
    assert recorded["rollback"] is None
    for shown in ("INSERT INTO shelves", "create_shelf", "COMMIT", "the answer left: 201", "on the writer"):
        assert shown in page
    assert page.index("INSERT INTO shelves") < page.index(">COMMIT<") < page.index("the answer left")
    assert "style=" not in page


@through_asyncpg
@pytest.mark.gen_test
async def test_nothing_that_a_client_or_a_driver_says_is_kept(
    seen: Seen, serve: Serve, expect_log: ExpectLog
):
    """Neither parameters, bodies, headers and queries nor the message of an error."""

    class Fails(ApiHandler):
        async def post(self) -> None:
            sql = text("INSERT INTO shelves (name, create_time) VALUES (:name, NULL)")
            await self.run(self.session.execute, sql, {"name": self.get_argument("q")})

    client = beside(seen, serve, [("/fails", Fails)])
    headers = {"X-Request-Id": "abc.1", "Authorization": "SECRET-header"}
    with expect_log("", ".", required=False):
        answer = await client.post("/fails?q=SECRET-query", {"body": "SECRET-body"}, headers=headers)
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")

    assert answer.code >= 400
    [recorded] = found["units"]
    assert any(each["failed"] for each in recorded["statements"])
    assert recorded["commit"] is None
    for shown in (json.dumps(found), page):
        assert "INSERT INTO shelves" in shown
        for word in ("SECRET", "constraint failed", "violates", "NOT NULL"):
            assert word not in shown


@pytest.mark.gen_test
async def test_attempts_are_lanes_of_one_page(seen: Seen, serve: Serve):
    """Each with its own statements and its end; the answer stands behind the last one."""

    class Flaky(Exception):
        """Gone at the second attempt."""

    failed: list[Flaky] = []

    class Retried(ApiHandler):
        retry_on = (Flaky,)

        async def post(self) -> None:
            await self.run(self.session.execute, text("UPDATE shelves SET name = name"))
            self.in_new_transaction(audit)
            if not failed:
                failed.append(Flaky())
                raise failed[0]

    def audit(session: Session) -> None:
        session.execute(text("SELECT 'audited'"))

    client = beside(seen, serve, [("/retried", Retried)])
    answer = await client.post("/retried", headers={"X-Request-Id": "abc.1"})
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")
    lists = (await seen.client.get("/-/requests.json")).json()

    assert answer.code == 200
    assert [recorded["attempt"] for recorded in found["units"]] == [1, 2, 0]
    assert [recorded["outcome"] for recorded in found["units"]] == ["undone", "kept", "kept"]
    first, second, audited = found["units"]
    assert first["rollback"] is not None
    assert second["commit"]["at_ms"] > first["ended_ms"]
    assert "SELECT 'audited'" in [each["sql"] for each in audited["statements"]]
    assert page.count("the answer left:") == 1
    for shown in ("attempt 1", "undone, retried", "attempt 2", "ROLLBACK", "in a transaction of its own"):
        assert shown in page
    assert [each["request_id"] for each in lists["worst"] if "retried" in each["reasons"]] == ["abc.1"]


@pytest.mark.gen_test
async def test_a_request_that_has_not_ended_is_shown_as_far_as_it_has_come(seen: Seen, serve: Serve):
    """`/-/live` links to it."""
    go_on = asyncio.Event()

    class Waits(ApiHandler):
        async def post(self) -> None:
            await self.run(self.session.execute, text("SELECT 'so far'"))
            await go_on.wait()

    client = beside(seen, serve, [("/waits", Waits)])
    request = asyncio.create_task(client.post("/waits", headers={"X-Request-Id": "abc.1"}))
    for _ in range(100):
        if b"so far" in (await seen.client.get("/-/requests/abc.1.json")).body:
            break
        await asyncio.sleep(0.02)
    found = await kept(seen, "abc.1")
    page = await page_of(seen, "abc.1")
    await asyncio.sleep(0.15)
    live = (await seen.client.get("/-/live", headers=BROWSER)).body.decode()
    go_on.set()

    assert (await request).code == 200
    assert (found["open"], found["status"], found["outcome"]) == (True, None, "open")
    assert "It has not ended" in page
    assert 'href="../-/requests/abc.1"' in live


@pytest.mark.gen_test
async def test_a_job_is_kept_too(seen: Seen):
    """By its label, with an id of its own."""

    def job() -> None:
        with seen.database.session_scope(label="nightly job") as session:
            session.execute(text("SELECT 1"))

    await asyncio.to_thread(job)
    last = (await seen.client.get("/-/requests.json")).json()["last"]

    [found] = [each for each in last if each["name"] == "nightly job"]
    assert (await kept(seen, found["request_id"]))["units"][0]["statements"][0]["sql"] == "SELECT 1"


@on_sqlite
@pytest.mark.gen_test
async def test_checks_of_readiness_displace_no_request(seen: Seen):
    """A load balancer asks all the time."""
    await seen.client.get("/shelves", headers={"X-Request-Id": "abc.1"})
    for _ in range(3):
        assert (await seen.client.get("/readyz")).code == 200
    last = (await seen.client.get("/-/requests.json")).json()["last"]

    assert [each["request_id"] for each in last] == ["abc.1"]


@pytest.mark.gen_test
async def test_each_message_of_a_socket_is_kept_by_itself(seen: Seen, serve: Serve):
    """As soon as it is answered, with the socket's id: a socket may stay open for ever."""

    class Echo(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(self.session.execute, text("SELECT 'of a message'"))
            await self.write_message(message)

    client = beside(seen, serve, [("/echo", Echo)])
    socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/echo")
    for _ in range(2):
        await socket.write_message("hello")
        assert await socket.read_message() == "hello"
    last = (await seen.client.get("/-/requests.json")).json()["last"]
    socket.close()

    first, second = [each for each in last if each["name"] == "message Echo"]
    assert first["request_id"] == second["request_id"]
    body = (await seen.client.get(f"/-/requests/{first['request_id']}.json")).json()
    assert len(body["requests"]) == 2
    assert "of a message" in json.dumps(body)
