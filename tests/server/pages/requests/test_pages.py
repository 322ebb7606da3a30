"""``/-/requests``: where it is linked from, who sees it, how it looks."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from conf import OpsSettings, Settings
from handlers import ApiHandler
from tests.db.authors import create_authors, list_authors, titles
from tests.fixtures.browser import Page
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client, Serve
from tests.fixtures.service import MakeApp
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER, each_look
from tests.server.pages.looks import faults_of
from tests.server.pages.requests.conftest import beside, page_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@on_sqlite
@pytest.mark.gen_test
async def test_the_page_of_an_error_links_to_its_timeline(seen: Seen):
    """Of one that had no session as well."""
    for path in ("/shelves/999", "/nowhere"):
        page = await seen.client.get(path, headers={**BROWSER, "X-Request-Id": "abc.1"})
        root = "../" * (path.count("/") - 1) or "./"
        assert f'<a href="{root}-/requests/abc.1">' in page.body.decode(), path

    assert "It had no session." in await page_of(seen, "abc.1")


@on_sqlite
@pytest.mark.gen_test
async def test_the_page_of_an_error_links_to_nothing_that_a_caller_may_not_see(seen: Seen):
    page = await seen.client.get("/nowhere", headers={**BROWSER, "Via": "1.1 proxy"})

    assert b"-/requests" not in page.body


@on_sqlite
@pytest.mark.gen_test
async def test_the_page_of_an_error_links_to_nothing_that_is_on_another_port(
    settings: Settings, ops_settings: OpsSettings, make_application: MakeApp
):
    """Where `ops.port` is set, timelines are there."""
    on_its_own = ops_settings.model_copy(update={"port": 9090})
    seen = Seen(settings.model_copy(update={"ops": on_its_own}), make_application)
    await seen.start()
    try:
        page = await seen.client.get("/nowhere", headers=BROWSER)
    finally:
        await seen.stop()

    assert b"404" in page.body
    assert b"-/requests" not in page.body


@on_sqlite
@pytest.mark.gen_test
async def test_markup_in_a_path_a_label_or_a_statement_is_text(seen: Seen, serve: Serve):
    class Shows(ApiHandler):
        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT '<i>statement</i>'"))

    def job() -> None:
        with seen.database.session_scope(label="<i>label</i>") as session:
            session.execute(text("SELECT 1"))

    client = beside(seen, serve, [("/.*", Shows)])
    await client.get("/<i>path</i>", headers={"X-Request-Id": "abc.1"})
    await asyncio.to_thread(job)
    last = (await seen.client.get("/-/requests.json")).json()["last"]
    [of_job] = [each["request_id"] for each in last if each["name"] == "<i>label</i>"]
    pages = [
        await page_of(seen, "abc.1"),
        await page_of(seen, of_job),
        (await seen.client.get("/-/requests", headers=BROWSER)).body.decode(),
    ]

    for page in pages:
        assert "<i>" not in page.replace('<i class="', "")
    assert "&lt;i&gt;statement&lt;/i&gt;" in pages[0]
    assert "&lt;i&gt;path&lt;/i&gt;" in pages[0]
    assert "&lt;i&gt;label&lt;/i&gt;" in pages[1]
    assert "&lt;i&gt;label&lt;/i&gt;" in pages[2]


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"Host": "evil.example"}, 404), ({"Via": "1.1 proxy"}, 404)]
)
@pytest.mark.parametrize("path", ["", ".json", "/abc.1", "/abc.1.json"])
@pytest.mark.gen_test
async def test_it_is_for_operators(headers: dict[str, str], status: int, path: str, seen: Seen):
    await seen.client.get("/shelves", headers={"X-Request-Id": "abc.1"})

    answer = await seen.client.get(f"/-/requests{path}", headers=headers)

    assert answer.code == status
    if status == 404:
        assert b"SELECT" not in answer.body


@on_sqlite
@pytest.mark.parametrize(
    ("environment", "timing"), [("testing", 'db;dur=N;desc="1 statement"'), ("production", "db;dur=N")]
)
@pytest.mark.gen_test
async def test_server_timing_has_the_number_of_statements_except_in_production(
    environment: str, timing: str, settings, make_application: MakeApp, serve: Serve, database
):
    application = make_application(settings.model_copy(update={"environment": environment}), database)
    client = serve(application)

    answer = await client.get("/shelves")

    [of_database, *_] = answer.headers["Server-Timing"].split(", ")
    number = of_database.partition("=")[2].partition(";")[0]
    assert of_database.replace(number, "N", 1) == timing


@pytest.fixture
def busy(seen: Seen, serve: Serve, sql: RawSql) -> Client:
    """A client of handlers whose requests have something to show."""
    create_authors(sql, authors=60)

    class Report(ApiHandler):
        retry_on = (ZeroDivisionError,)
        tries = 0

        async def post(self) -> None:
            await self.run(list_authors, self.session)
            await self.run(titles, self.session)
            if not Report.tries:
                Report.tries += 1
                raise ZeroDivisionError
            await self.run(self.session.execute, text("UPDATE authors SET name = name"))
            await asyncio.sleep(0.15)

    return beside(seen, serve, [("/reports/[0-9]+", Report)])


@on_sqlite
@pytest.mark.debian
@each_look
@pytest.mark.gen_test(timeout=60)
async def test_it_looks_well_in_a_browser(
    width: int, scheme: str, seen: Seen, busy: Client, page: Page, expect_log: ExpectLog
):
    """Without scripts."""
    with expect_log("", ".", required=False):
        for number in range(3):
            await busy.post(f"/reports/{number}", headers={"X-Request-Id": f"8a41c7d2f0e94b51.{number}"})
        await busy.get("/reports/1")
    await seen.client.get("/shelves")
    port = seen.client.port
    for path, status in (
        ("/-/requests", 200),
        ("/-/requests/8a41c7d2f0e94b51.0", 200),
        ("/-/requests/unknown", 404),
    ):
        await page.open(f"http://127.0.0.1:{port}{path}", width=width, scheme=scheme, scripts=False)

        assert await faults_of(page, width=width, port=port, status=status) == [], path
    await page.open(f"http://127.0.0.1:{port}/-/requests/8a41c7d2f0e94b51.0", width=width, scheme=scheme)
    bars = (
        "[...document.querySelectorAll('.statements path')].filter(p => p.getBoundingClientRect().width > 0)"
    )
    assert await page.evaluate(f"{bars}.length") > 4
    assert "2 attempts" in await page.evaluate("document.body.innerText")
