"""The help desk of docs/handlers.md: each thing that the page shows, over HTTP."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.web import Application

from db import Database
from tests.examples import desk
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer, Client, Serve

pytestmark = pytest.mark.gen_test


class Visitor:
    """A browser, as far as it is needed: keeps cookies and sends the form's token."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.cookies: dict[str, str] = {}

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self.client.request(method, path, body, headers=headers)
        for line in answer.headers.get_list("Set-Cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    async def submit(self, path: str, **fields: str) -> Answer:
        body = urlencode({"_xsrf": self.cookies.get("_xsrf", ""), **fields}).encode()
        return await self.send("POST", path, body, **{"Content-Type": "application/x-www-form-urlencoded"})

    async def log_in(self, name: str) -> Visitor:
        await self.send("GET", "/login")
        assert (await self.submit("/login", name=name)).code == 302
        return self


@pytest.fixture
def app(database: Database) -> Application:
    database.create_all(desk.Base.metadata)
    made = desk.make_app(database, secret="of the test")
    made.settings["log_function"] = lambda handler: None
    return made


@pytest.fixture
def visitor(app: Application, serve: Serve) -> Visitor:
    return Visitor(serve(app))


async def test_a_stranger_is_led_to_the_log_in(visitor: Visitor):
    answer = await visitor.send("GET", "/tickets")

    assert (answer.code, answer.headers["Location"]) == (302, "/login?next=%2Ftickets")


async def test_a_form_opens_a_ticket_which_is_counted_and_announced(
    visitor: Visitor, sql: RawSql, monkeypatch: pytest.MonkeyPatch
):
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(desk, "send_mail", lambda author, title: sent.append((author, title)))
    await visitor.log_in("Ada")

    opened = await visitor.submit("/tickets", title="no <light>")
    page = await visitor.send("GET", "/tickets")

    assert (opened.code, opened.headers["Location"]) == (302, "/tickets")
    assert b"Tickets of Ada" in page.body
    assert b"<li>no &lt;light&gt;</li>" in page.body
    assert sql("SELECT author, count FROM opened") == [{"author": "Ada", "count": 1}]
    assert sent == [("Ada", "no <light>")]


async def test_a_form_without_the_token_is_refused(visitor: Visitor, sql: RawSql, expect_log: ExpectLog):
    await visitor.log_in("Ada")
    visitor.cookies["_xsrf"] = ""

    with expect_log("", "_xsrf", required=False):
        answer = await visitor.submit("/tickets", title="no light")

    assert answer.code == 403
    assert sql("SELECT * FROM tickets") == []


async def test_a_refusal_of_the_database_is_the_sentence_written_for_it(visitor: Visitor, sql: RawSql):
    await visitor.log_in("Ada")
    token = {"X-XSRFToken": visitor.cookies["_xsrf"]}

    first = await visitor.send("POST", "/api/tickets", {"title": "no light"}, **token)
    again = await visitor.send("POST", "/api/tickets", {"title": "no light"}, **token)

    assert first.code == 201
    assert (again.code, again.json()["detail"]) == (409, "there is such a ticket already")
    assert sql("SELECT title FROM tickets") == [{"title": "no light"}]


async def test_a_search_by_post_reads_and_a_snapshot_is_one_state(visitor: Visitor):
    await visitor.log_in("Ada")
    await visitor.submit("/tickets", title="no light")

    found = await visitor.submit("/search", words="light")
    summary = await visitor.send("GET", "/summary")

    assert found.json() == {"titles": ["no light"]}
    assert summary.json() == {"count": 1, "first": ["no light"]}


async def test_an_export_is_streamed(visitor: Visitor):
    await visitor.log_in("Ada")
    await visitor.submit("/tickets", title="no light")

    answer = await visitor.send("GET", "/export")

    assert re.fullmatch(rb"\d+,Ada\r\n", answer.body)
    assert "Content-Length" not in answer.headers


async def test_what_a_refused_request_has_to_leave_is_left(visitor: Visitor, sql: RawSql):
    await visitor.log_in("Ada")

    answer = await visitor.submit("/merge")

    assert (answer.code, answer.headers["Retry-After"]) == (409, "60")
    assert sql("SELECT author FROM refusals") == [{"author": "Ada"}]


async def test_a_file_is_kept_piece_by_piece_and_read_again(visitor: Visitor, sql: RawSql):
    await visitor.log_in("Ada")
    await visitor.submit("/tickets", title="no light")
    [ticket] = sql("SELECT id FROM tickets")
    path, content = f"/tickets/{ticket['id']}/file", b"x" * 200_000

    put = await visitor.send("PUT", path, content, **{"X-XSRFToken": visitor.cookies["_xsrf"]})
    read = await visitor.send("GET", path)

    assert put.code == 204
    assert (read.body, read.headers["Content-Disposition"]) == (
        content,
        f'attachment; filename="ticket-{ticket["id"]}"',
    )
    assert sql("SELECT size FROM tickets") == [{"size": len(content)}]


class SlowHandler(desk.DeskHandler):
    timeout_s = 0.3

    async def get(self) -> None:
        await asyncio.sleep(1)
        self.write("done")


async def test_a_time_limit_is_that_of_the_work_and_for_some_users_another(
    app: Application, visitor: Visitor, expect_log: ExpectLog
):
    app.add_handlers(".*", [("/slow", SlowHandler)])
    with expect_log("", "", level=30, required=False):
        hasty = await (await visitor.log_in("Ada")).send("GET", "/slow")
    patient = await (await visitor.log_in("staff")).send("GET", "/slow")

    assert (hasty.code, patient.code) == (504, 200)
