"""What OWASP's sheet for REST services asks of every answer, of handlers and errors alike."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest
from tornado.httputil import HTTPHeaders
from tornado.web import Application, HTTPError

from handlers import ApiHandler, NotFoundHandler, ProblemHandler
from handlers.json_api import problem
from handlers.json_api.security_headers import SECURITY_HEADERS
from tests.fixtures.browser import Page
from tests.fixtures.edge import StartEdge
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client, Serve
from tests.handlers.conftest import Mount
from tests.handlers.notes import NO_NOTE, add_note

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


class Various(ProblemHandler):
    """Answers in each way that there is."""

    def get(self) -> None:
        ways = {
            "json": lambda: self.write_json("x"),
            "text": lambda: self.write("x"),
            "redirect": lambda: self.redirect("/"),
            "refusal": self._refuse,
            "fault": self._fail,
        }
        ways[self.get_argument("way")]()

    def _refuse(self) -> None:
        raise HTTPError(403)

    def _fail(self) -> None:
        raise ZeroDivisionError


def assert_secure(headers: HTTPHeaders) -> None:
    """All of the sheet's headers, once each, and none that tells what runs here."""
    for name, value in SECURITY_HEADERS.items():
        assert headers.get_list(name) == [value]
    assert "Server" not in headers
    assert "Tornado" not in str(headers)


def test_the_headers_are_those_of_the_sheet():
    """And say what it says."""
    assert SECURITY_HEADERS["Cache-Control"] == "no-store"
    assert SECURITY_HEADERS["X-Content-Type-Options"] == "nosniff"
    assert SECURITY_HEADERS["X-Frame-Options"] == "DENY"
    assert SECURITY_HEADERS["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in SECURITY_HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in SECURITY_HEADERS["Content-Security-Policy"]
    assert "geolocation=()" in SECURITY_HEADERS["Permissions-Policy"]


@pytest.mark.debian
async def test_a_browser_knows_every_name_in_them(serve: Serve, page: Page):
    """Chromium's console has no complaint about an answer that is shown as a page."""
    client = serve(Application([("/", Various), ("/favicon.ico", Various)]))

    await page.open(f"http://127.0.0.1:{client.port}/?way=text")
    await page.open(f"http://127.0.0.1:{client.port}/?way=text")  # what came late of the first is here

    assert page.complaints == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?way=json", 200),
        ("/?way=text", 200),
        ("/?way=redirect", 302),
        ("/?way=refusal", 403),
        ("/?way=fault", 500),
        ("/nowhere", 404),
    ],
)
async def test_every_answer_carries_them(serve: Serve, expect_log: ExpectLog, path: str, status: int):
    """A handler's own, an error, and that to a path without handler."""
    client = serve(Application([("/", Various)], default_handler_class=NotFoundHandler))

    with expect_log("", "", required=False):
        answer = await client.get(path)

    assert answer.code == status
    assert_secure(answer.headers)


@pytest.mark.parametrize(
    "request_",
    [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 40_000],
    ids=["line", "host", "size"],
)
async def test_what_tornado_refuses_by_itself_does(start_edge: StartEdge, request_: bytes):
    edge = start_edge(Application([("/", Various)]))

    assert_secure((await edge.ask(request_)).headers)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "BREW"])
async def test_every_method_does(serve: Serve, expect_log: ExpectLog, method: str):
    client = serve(Application([("/", Various)]))

    with expect_log("tornado.access", "^405", required=False):
        answer = await client.request(method, "/?way=json")

    assert_secure(answer.headers)


@on_sqlite
async def test_an_answer_to_a_failed_commit_does(mount: Mount):
    """It comes from a fresh handler."""

    class Deferred(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)
            self.write("x")

    answer = await mount(Deferred).post("/")

    assert answer.code == 409
    assert_secure(answer.headers)


@on_sqlite
async def test_an_application_says_no_more_than_that(client: Client):
    """No header names a program or a version, and none tells of TLS that is not there."""
    answer = await client.get("/shelves")

    assert_secure(answer.headers)
    assert "Strict-Transport-Security" not in answer.headers


async def test_over_tls_browsers_are_told_to_stay_there(serve: Serve):
    """Where it is known; here from a server that was told that a proxy does it."""
    client = serve(Application([("/", Various)]), protocol="https")

    assert (await client.get("/?way=json")).headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_what_one_answer_sets_is_not_in_the_next_of_the_same_second(serve: Serve):
    """The headers of all answers are made once a second, and each answer has its own."""

    class Sets(ProblemHandler):
        def get(self) -> None:
            if self.get_argument("own", None):
                self.set_header("Cache-Control", "private")
                self.add_header("X-Frame-Options", "SAMEORIGIN")
                self.add_header("X-Own", "1")
                self.clear_header("Referrer-Policy")
            self.write_json("x")

    client = serve(Application([("/", Sets)]))

    for _ in range(3):
        own = await client.get("/?own=1")
        plain = await client.get("/")

        assert own.headers.get_list("X-Frame-Options") == ["DENY", "SAMEORIGIN"]
        assert "X-Own" in own.headers
        assert_secure(plain.headers)
        assert "X-Own" not in plain.headers
        assert abs((parsedate_to_datetime(plain.headers["Date"]) - datetime.now(UTC)).total_seconds()) < 60


async def test_headers_of_another_second_are_made_anew(serve: Serve):
    """Their Date is in them."""
    client = serve(Application([("/", Various)]))
    problem._default_headers["http"] = int(time.time()) - 5, {"X-Stale": ["1"]}

    answer = await client.get("/?way=json")

    assert "X-Stale" not in answer.headers
    assert_secure(answer.headers)


async def test_a_class_with_headers_of_its_own_has_them_and_leaves_the_others_alone(serve: Serve):
    class Own(ProblemHandler):
        def set_default_headers(self) -> None:
            super().set_default_headers()
            self.set_header("X-Class", "own")

        def get(self) -> None:
            self.write_json("x")

    client = serve(Application([("/own", Own), ("/", Various)]))

    answers = [await client.get(path) for path in ("/own", "/?way=json", "/own", "/?way=json")]

    assert [answer.headers.get("X-Class") for answer in answers] == ["own", None, "own", None]
    for answer in answers:
        assert_secure(answer.headers)
