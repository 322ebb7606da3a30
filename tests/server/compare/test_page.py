"""The newest report in the browser, where compare.mount is on."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tornado.web import Application

from conf import Settings
from db import Database
from server.app import make_app
from server.compare import DEFAULT_OUT
from server.compare.columns import TITLES
from server.compare.report import write_report
from tests.fixtures.browser import Page
from tests.fixtures.process import StartServer
from tests.fixtures.server import Client, Serve
from tests.server.compare.sample import SCOPES, comparison
from tests.server.conftest import Seen

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report. Once for all: matplotlib keeps the files of its fonts open."""
    path = tmp_path_factory.mktemp("report") / DEFAULT_OUT
    write_report(comparison(), path)
    return path


@pytest.fixture
def report(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report, in the folder in which the server runs."""
    monkeypatch.chdir(written.parent)
    return written


@pytest.fixture
def client(app: Application, serve: Serve) -> Client:
    """A client for the board that also asks for what its OpenAPI document does not describe."""
    return serve(app)


@on_sqlite
@pytest.mark.gen_test
async def test_the_report_is_shown(report: Path, client: Client):
    answer = await client.get("/compare")

    assert answer.code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.body == report.read_bytes()  # noqa: ASYNC240


@on_sqlite
def test_the_banner_and_the_home_page_of_a_development_server_lead_to_it(
    database_url: str, start_server: StartServer
):
    """As an address that a terminal opens, and as a link; where there is no report, to the command."""
    server = start_server("--environment", "development", "--port", "0", url=database_url)

    found = re.search(r"(http://127\.0\.0\.1:\d+/)compare  ", server.out)
    assert found is not None, server.out
    with urlopen(Request(found[1], headers={"Accept": "text/html"})) as home:
        assert 'href="./compare"' in home.read().decode()
    with pytest.raises(HTTPError) as answered:
        urlopen(f"{found[1]}compare")
    with answered.value as page:
        assert page.status == 404
        assert "compare</code> in the folder" in page.read().decode()


@on_sqlite
@pytest.mark.gen_test
async def test_the_report_has_the_bar_of_all_pages(report: Path, seen: Seen):
    """The report itself is as it was written; its style is its own, the bar's is a file."""
    answer = await seen.client.get("/compare")

    head, _, body = answer.body.partition(b"<body>")
    bar, _, rest = body.partition(b"</header>")
    assert b'aria-current="page">Compare</a>' in bar
    assert report.read_bytes().strip().endswith(rest.strip())  # noqa: ASYNC240
    assert b"bar.css" in head


@on_sqlite
@pytest.mark.gen_test
async def test_where_there_is_none_yet_the_page_says_how_to_come_by_one(
    client: Client, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    answer = await client.get("/compare")

    assert answer.code == 404
    assert b"python -m server compare" in answer.body


@on_sqlite
@pytest.mark.gen_test
async def test_without_compare_mount_there_is_no_such_page(
    report: Path, settings: Settings, database: Database, serve: Serve
):
    settings = settings.model_copy(update={"compare": settings.compare.model_copy(update={"mount": False})})

    assert (await serve(make_app(settings, database)).get("/compare")).code == 404


@on_sqlite
@pytest.mark.debian
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.gen_test(timeout=60)
async def test_the_page_reads_well_in_a_browser(
    width: int, scheme: str, report: Path, client: Client, page: Page
):
    """Without scripts: nothing is wider than the window, every scope's verdict is seen, what is folded
    opens, text stands out from its paper, and the browser has nothing to complain of."""
    await page.open(f"http://127.0.0.1:{client.port}/compare", width=width, scheme=scheme, scripts=False)

    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    seen = await page.evaluate("document.querySelector('#worker summary').innerText")
    assert seen.split().count("mixed") == 3
    assert "holds" in seen
    for scope in map(
        TITLES.__getitem__, SCOPES
    ):  # in the head of the table, or with each verdict where it is narrow
        shown = await page.evaluate("document.querySelector('#verdicts').parentElement.innerText")
        assert scope in shown
    folded = "document.querySelector('#worker .inside').checkVisibility()"
    assert not await page.evaluate(folded)
    x, y = await page.evaluate(
        "(r => [r.x + 30, r.y + 8])((e => (e.scrollIntoView({block: 'center'}), e.getBoundingClientRect()))"
        "(document.querySelector('#worker summary')))"
    )
    for kind in ("mousePressed", "mouseReleased"):
        await page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert await page.evaluate(folded)
    if width > 1024:  # else each verdict names its form
        head = "document.querySelector('.head').getBoundingClientRect().top"
        last = "document.querySelector('.scenario:last-of-type .inside pre')"
        assert await page.evaluate(f"({_UNFOLD}, {last}.scrollIntoView(), {head})") >= 0
    assert await page.evaluate(_CUT) == []
    for selector in (
        "body",
        ".verdict.refused",
        ".verdict.lost",
        ".faint",
        "figure svg text",
        ".verdict.mixed",
    ):
        assert await page.evaluate(_CONTRAST % selector) >= 4.5, selector
    # OWASP's Permissions-Policy, which every answer carries, names features that Chromium does not have.
    assert [each for each in page.complaints if "Permissions-Policy header" not in each] == []


# Code and text that is wider than its box, with everything unfolded.
_UNFOLD = "document.querySelectorAll('details').forEach(each => each.open = true)"
_CUT = f"""({_UNFOLD}, [...document.querySelectorAll('pre, p, td, th, li, h3')]
    .filter(each => each.scrollWidth > each.clientWidth + 1)
    .map(each => each.innerText.slice(0, 40)))"""

# https://www.w3.org/TR/WCAG22/#contrast-minimum: the element's text against the page's paper.
_CONTRAST = """(element => {
    const part = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = text => {
        const [r, g, b] = text.match(/\\d+/g).map(Number);
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const style = getComputedStyle(element);
    const ink = light(element instanceof SVGElement ? style.fill : style.color);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
})(document.querySelector('%s'))"""
