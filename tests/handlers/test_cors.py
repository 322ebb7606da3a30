"""Pages of other origins: what they may read, what they may send, and that CORS is off by default."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.web import Application

from conf import Settings, load_settings
from db import Database
from handlers import ApiHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.edge import StartEdge
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp
from tests.handlers.conftest import Notes
from tests.handlers.notes import NO_NOTE, add_note

pytestmark = pytest.mark.gen_test

ACCEPTED = "Content-Type, If-Match, If-None-Match, Idempotency-Key, X-Request-Id, Read-After"
EXPOSED = "ETag, Location, X-Request-Id, Server-Timing, Retry-After, Idempotency-Replayed, Wrote, Write-Lost"
READER = "https://app.example"
WRITER = "https://forms.example:8443"
STRANGER = "https://evil.example"
SHELF = {"name": "Store"}


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Two origins with different rights."""
    return load_settings(
        {
            "environment": "testing",
            "database.url": database_url,
            "http.cors_origins": READER,
            "http.trusted_origins": WRITER,
            "http.body_max_bytes": 1000,
        },
        environ={},
    )


def cors_of(answer: Any) -> dict[str, str]:
    """The headers that belong to CORS, without their common beginning."""
    prefix = "Access-Control-"
    return {
        name.removeprefix(prefix): value
        for name, value in answer.headers.get_all()
        if name.startswith(prefix)
    }


async def test_without_the_setting_nothing_is_said(
    serve: Serve, make_application: MakeApp, database: Database
):
    """Not even Vary."""
    plain = load_settings({"environment": "testing", "database.url": "sqlite://"}, environ={})
    client = serve(make_application(plain, database))

    answer = await client.get("/shelves", headers={"Origin": READER})
    asked = {"Origin": READER, "Access-Control-Request-Method": "POST"}
    preflight = await client.request("OPTIONS", "/shelves", headers=asked)

    assert (answer.code, preflight.code) == (200, 204)
    assert cors_of(answer) == cors_of(preflight) == {}
    assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/shelves", 200),
        ("GET", "/shelves?limit=0", 400),
        ("GET", "/nowhere", 404),
        ("PUT", "/shelves", 405),
    ],
)
async def test_a_page_that_is_named_may_read(client: Client, method: str, path: str, status: int):
    """Answers and errors, and the headers that the contract has."""
    answer = await client.request(method, path, headers={"Origin": READER})

    assert answer.code == status
    assert cors_of(answer) == {
        "Allow-Origin": READER,
        "Expose-Headers": EXPOSED,
    }
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", [STRANGER, WRITER, READER + ".evil.example", READER.upper(), "null", ""])
async def test_another_page_may_not(client: Client, origin: str):
    """A cache in between learns that the answer is not the same for all."""
    answer = await client.get("/shelves", headers={"Origin": origin})

    assert answer.code == 200
    assert cors_of(answer) == {}
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/shelves", "GET, HEAD, OPTIONS, POST"),
        ("/shelves/1", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/books/f2ee55c638084ebfb35a00c003670ad9/lent", "OPTIONS, POST"),
    ],
)
async def test_a_browser_that_asks_first_is_told_what_may_be_sent(client: Client, path: str, methods: str):
    """The methods of that path, and the headers of the contract; no credentials."""
    asked = {
        "Origin": READER,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "content-type,if-match",
    }

    answer = await client.request("OPTIONS", path, headers=asked)

    assert (answer.code, answer.body) == (204, b"")
    said = cors_of(answer)
    assert said["Allow-Origin"] == READER
    assert said["Allow-Methods"] == answer.headers["Allow"] == methods
    assert said["Allow-Headers"] == ACCEPTED
    assert said["Max-Age"] == "600"
    assert "Allow-Credentials" not in said
    assert answer.headers["Vary"] == "Origin"


async def test_a_page_may_send_the_headers_that_are_named(
    serve: Serve, make_application: MakeApp, settings: Settings, database: Database
):
    """``http.cors_headers``: an application with a log-in has its pages send Authorization."""
    http = settings.http.model_copy(update={"cors_headers": ("Authorization", "X-Tenant")})
    client = serve(make_application(settings.model_copy(update={"http": http}), database))
    asked = {"Origin": READER, "Access-Control-Request-Method": "POST"}

    answer = await client.request("OPTIONS", "/shelves", headers=asked)
    stranger = await client.request("OPTIONS", "/shelves", headers=asked | {"Origin": STRANGER})

    named = f"{ACCEPTED}, Authorization, X-Tenant"
    assert cors_of(answer)["Allow-Headers"] == named
    assert cors_of(stranger) == {}


@pytest.mark.parametrize("origin", [STRANGER, WRITER])
async def test_for_another_page_the_browser_gets_no_leave(client: Client, origin: str):
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    answer = await client.request("OPTIONS", "/shelves", headers=asked)

    assert answer.code == 204
    assert cors_of(answer) == {}


async def test_options_alone_says_what_there_is(client: Client):
    answer = await client.request("OPTIONS", "/shelves")

    assert (answer.code, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert cors_of(answer) == {}


@pytest.mark.parametrize("origin", [READER, WRITER, None])
async def test_a_write_from_a_permitted_origin(client: Client, sql: RawSql, origin: str | None):
    """Named pages, and clients that are no page at all."""
    answer = await client.post("/shelves", SHELF, headers={"Origin": origin} if origin else {})

    assert answer.code == 201
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": 1}]


@pytest.mark.parametrize(
    "headers", [{"Origin": STRANGER}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}], ids=str
)
async def test_a_write_from_another_origin_is_refused(client: Client, sql: RawSql, headers: dict[str, str]):
    """A page of another origin: a browser sends a form of its without asking first. 403, nothing kept."""
    answer = await client.post("/shelves", SHELF, headers=headers)

    assert answer.code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": 0}]


async def test_a_page_may_read_what_a_failed_commit_says(
    serve: Serve, make_application: MakeApp, settings: Settings, database: Database, notes: Notes
):
    """The answer comes from a fresh handler, that has the same request to go by."""

    class Deferred(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="orphan", parent_id=NO_NOTE)

    application = make_application(settings, database)
    application.add_handlers(".*", [("/deferred", Deferred)])

    answer = await serve(application).post("/deferred", headers={"Origin": READER})

    assert answer.code == 409
    assert notes() == []
    assert cors_of(answer)["Allow-Origin"] == READER


async def test_a_page_may_read_why_its_body_was_refused(
    start_edge: StartEdge,
    settings: Settings,
    app: Application,
):
    """Also where no handler was reached."""
    edge = start_edge(app, body_max_bytes=settings.http.body_max_bytes)
    request = f"POST /shelves HTTP/1.1\r\nHost: x\r\nOrigin: {READER}\r\nContent-Length: 1001\r\n\r\n"

    answer = await edge.ask(request.encode())

    assert answer.code == 413
    assert cors_of(answer)["Allow-Origin"] == READER
