"""``/``, the pages of errors, and who sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.monitoring.ops import Ops
from server.pages.accept import prefers_html
from tests.fixtures.browser import Page
from tests.fixtures.server import Serve
from tests.fixtures.service import MakeApp
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER, each_look
from tests.server.pages.looks import faults_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

FETCH = {"Accept": "*/*"}
POLICY = "script-src 'self'; style-src 'self'"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER["Accept"], True),
        ("text/html", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/json;q=0.5, text/html", True),
        ("text/html;q=0.1, application/problem+json", False),
        ("text/html;q=nonsense, */*", False),
        ("text/*, application/json;q=0.9", True),
    ],
)
def test_a_page_is_for_a_client_that_ranks_html_above_json(accept: str, html: bool):
    assert prefers_html(accept) is html


@on_sqlite
@pytest.mark.gen_test
async def test_home_is_shown_to_a_browser(seen: Seen):
    """Whether the server is ready, and links to what there is, that hold behind a path prefix too."""
    answer = await seen.client.get("/", headers=BROWSER)

    assert answer.code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert POLICY in answer.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in answer.headers["Content-Security-Policy"]
    text = answer.body.decode()
    assert 'href="./docs"' in text
    assert 'href="/' not in text
    assert "style=" not in text


@on_sqlite
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("headers", [{}, {"Accept": "application/json"}, FETCH])
@pytest.mark.gen_test
async def test_a_client_that_asks_for_json_finds_what_it_found_before_there_was_a_page(
    method: str, headers: dict[str, str], seen: Seen
):
    answer = await seen.client.request(method, "/", headers=headers, body=b"" if method == "POST" else None)
    other = await seen.client.request(
        method, "/nowhere", headers=headers, body=b"" if method == "POST" else None
    )

    assert answer.code == other.code == 404
    assert answer.headers["Content-Type"] == other.headers["Content-Type"] == "application/problem+json"
    assert sorted(answer.headers) == sorted(other.headers)
    if method != "HEAD":
        assert answer.json().keys() == other.json().keys()


@on_sqlite
@pytest.mark.gen_test
async def test_a_database_that_cannot_be_worked_with_is_said_on_the_page(seen: Seen):
    """Why, and the command."""
    pages = seen.application.settings["pages"]
    pages.application = replace(pages.application, revision="another")

    text = (await seen.client.get("/", headers=BROWSER)).body.decode()

    assert "Not ready:" in text
    assert "<code>python -m server migrate</code>" in text
    assert "Ready." not in text


@pytest.mark.parametrize("path", ["/nowhere", "/shelves/1/2/3", "//x//y", "/shelves/999"])
@on_sqlite
@pytest.mark.gen_test
async def test_an_error_is_a_page_for_a_browser_and_a_problem_for_any_other(path: str, seen: Seen):
    """The problem's own words, with the id of the request; its links lead to the root from any path."""
    page = await seen.client.get(path, headers={**BROWSER, "X-Request-Id": "abc.1"})
    problem = await seen.client.get(path, headers={"X-Request-Id": "abc.1"})

    assert page.code == problem.code == 404
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert problem.headers["Content-Type"] == "application/problem+json"
    text = page.body.decode()
    assert "abc.1" in text
    assert problem.json()["detail"] in text
    assert "Nothing of this request was kept." in text
    root = "../" * (path.count("/") - 1) or "./"
    assert f'<a href="{root}">Home</a>' in text


@on_sqlite
@pytest.mark.gen_test
async def test_a_method_that_a_path_does_not_have_is_405_with_allow_on_the_page_too(seen: Seen):
    answer = await seen.client.delete("/shelves", headers=BROWSER)

    assert answer.code == 405
    assert "GET" in answer.headers["Allow"]
    assert b"this path takes" in answer.body


@on_sqlite
@pytest.mark.gen_test
async def test_markup_in_a_path_is_text_on_the_page(seen: Seen):
    answer = await seen.client.get("/%3Cscript%3Ealert(1)%3C/script%3E<b>", headers=BROWSER)

    assert answer.code in (400, 404)
    assert b"<script>alert" not in answer.body
    assert b"<b>" not in answer.body.split(b"<main>")[-1].replace(b"<b class", b"")


REBOUND = {"Host": "evil.example"}
PROXIED = {"X-Forwarded-For": "10.0.0.9"}


@on_sqlite
@pytest.mark.parametrize("path", ["/", "/stats", "/metrics"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"Host": "localhost"}, 200), ({"Host": "[::1]:80"}, 200), (REBOUND, 404), (PROXIED, 404)],
)
@pytest.mark.gen_test
async def test_pages_for_operators_are_for_callers_on_loopback_that_name_this_server(
    path: str, headers: dict[str, str], status: int, seen: Seen
):
    """A web page whose name points to 127.0.0.1 has its caller on loopback; its Host is its own."""
    answer = await seen.client.get(path, headers={**BROWSER, **headers})

    assert answer.code == status


@on_sqlite
@pytest.mark.gen_test
async def test_in_production_a_browser_sees_what_every_client_sees(
    settings, make_application: MakeApp, serve: Serve, database
):
    """No home, no documentation, no page of an error."""
    production = settings.model_copy(update={"environment": "production"})
    client = serve(make_application(production, database, Ops(production)))

    for path in ("/", "/docs", "/-/assets/0/pages.css", "/nowhere"):
        answer = await client.get(path, headers=BROWSER)
        assert (answer.code, answer.headers["Content-Type"]) == (404, "application/problem+json"), path


@on_sqlite
@pytest.mark.gen_test
async def test_assets_are_kept_by_a_browser_and_an_open_page_fills_no_log(seen: Seen, expect_log):
    text = (await seen.client.get("/", headers=BROWSER)).body.decode()
    path = "/" + text.split('href="./')[2].split('"')[0]

    with expect_log("tornado.access", ".", required=False) as lines:
        answer = await seen.client.get(path)

    assert answer.code == 200
    assert "immutable" in answer.headers["Cache-Control"]
    assert [line for line in lines if "assets" in line.getMessage()] == []


@on_sqlite
@pytest.mark.debian
@each_look
@pytest.mark.gen_test(timeout=60)
async def test_home_and_errors_look_well_in_a_browser(width: int, scheme: str, seen: Seen, page: Page):
    """Without scripts."""
    port = seen.client.port
    for path, status in (("/", 200), ("/nowhere", 404), ("/books/lend", 405)):
        await page.open(f"http://127.0.0.1:{port}{path}", width=width, scheme=scheme, scripts=False)

        assert await faults_of(page, width=width, port=port, status=status) == [], path


@on_sqlite
@pytest.mark.gen_test
async def test_a_page_of_its_own_error_is_500_and_not_an_endless_page(seen: Seen, expect_log, monkeypatch):
    """Where home fails, its error is a page of the same look."""

    async def fails() -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(seen.application.settings["pages"], "faults", fails)
    with expect_log("onfinish.handlers", "ZeroDivisionError"), expect_log("tornado.access", "^500"):
        answer = await seen.client.get("/", headers=BROWSER)

    assert answer.code == 500
    assert b'<h1><span class="bad">500</span>' in answer.body
