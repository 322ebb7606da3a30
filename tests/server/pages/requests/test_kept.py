"""``/-/requests``: which requests are kept, and how they are found."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import tracemalloc
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from conf import OpsSettings, Settings
from db import Outcome
from db.work.recorder import STATEMENTS_MAX
from handlers import ApiHandler
from server.monitoring.ops import Ops
from server.pages.requests.kept import EACH_MAX, LAST_MAX, KeptRequest, KeptRequests
from tests.fixtures.browser import Page
from tests.fixtures.logs import ExpectLog
from tests.fixtures.process import StartServer
from tests.fixtures.server import Serve
from tests.fixtures.service import MakeApp
from tests.server.conftest import Seen
from tests.server.pages.conftest import BROWSER
from tests.server.pages.requests.conftest import beside, kept, page_of

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def request_of(serial: int, *reasons: Any, **options: Any) -> KeptRequest:
    """A request that has ended."""
    return KeptRequest(
        **{
            "process": 0,
            "serial": serial,
            "request_id": f"id.{serial}",
            "name": "GET /",
            "method": "GET",
            "path": "/",
            "handler": "Home.get",
            "status": 200,
            "at_s": float(serial),
            "began_at": 0.0,
            "took_s": 0.1,
            "outcome": "read",
            "statements": 1,
            "attempts": 1,
            "reasons": reasons,
            **options,
        }
    )


def test_the_last_and_the_worst_are_kept_and_no_more():
    """The newest of each reason: a flood of one displaces none of another."""
    requests = KeptRequests()
    requests.add(request_of(1, "slow", "retried"), last=True)
    for serial in range(2, 1000):
        requests.add(request_of(serial, "failed"), last=True)
    requests.add(request_of(1000, "unknown"), last=False)

    assert [each.serial for each in requests.last] == [*range(1000 - LAST_MAX, 1000)]
    assert [each.serial for each in requests.worst] == [1000, *range(999, 999 - EACH_MAX, -1), 1]
    assert [each.serial for each in requests.find("id.1")] == [1000, 1]
    assert [*requests.find("id.500")] == []


@on_sqlite
@pytest.mark.gen_test(timeout=120)
async def test_memory_is_bounded(seen: Seen, serve: Serve, expect_log: ExpectLog):
    """Requests with more and longer statements than are kept: what is held stops growing."""

    class Many(ApiHandler):
        async def get(self) -> None:
            await self.run(many, self.session)

    def many(session: Session) -> None:
        for number in range(STATEMENTS_MAX + 20):
            session.execute(text(f"SELECT {number} AS a{'x' * 500}"))

    log = seen.application.settings["pages"].log
    client = beside(seen, serve, [("/many", Many)])
    await client.get("/many")
    gc.collect()
    tracemalloc.start()
    await client.get("/many")
    gc.collect()
    of_one = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    [*_, last] = log.kept.last
    [recorded] = last.units
    assert len(recorded.recording.statements) == STATEMENTS_MAX
    assert recorded.recording.more == 20
    assert of_one < 400_000  # times two hundred, and no more
    assert len(log._units) == 0
    assert log.kept.last.maxlen == LAST_MAX


@on_sqlite
@pytest.mark.gen_test
async def test_off_nothing_is_recorded_and_the_worst_are_kept_without_statements(
    settings, make_application: MakeApp, serve: Serve, database, expect_log: ExpectLog
):
    """As in production: the dialect's methods are the same objects, and requests that went well are gone."""
    production = settings.model_copy(update={"environment": "production"})
    ops = Ops(production)
    before = vars(database.writer.engine.dialect)["do_execute"]
    application = make_application(production, database, ops)

    class Fails(ApiHandler):
        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))
            raise ZeroDivisionError

    application.add_handlers(".*", [("/fails", Fails)])
    client = serve(application)
    await ops.start(application, database, None)  # type: ignore[arg-type]  # it is asked for nothing here
    after = vars(database.writer.engine.dialect)["do_execute"]
    await client.get("/shelves")
    with expect_log("onfinish.handlers", "ZeroDivisionError"), expect_log("tornado.access", "^500"):
        await client.get("/fails", headers={"X-Request-Id": "abc.1"})
    log = application.settings["pages"].log
    await ops.stop()

    assert after is before
    assert not log.is_recording
    assert [*log.kept.last] == []
    [worst] = log.kept.worst
    assert (worst.request_id, worst.status, worst.statements) == ("abc.1", 500, 1)
    assert worst.reasons == ("failed",)
    assert worst.units == ()


@pytest.mark.parametrize(
    ("environment", "setting", "records"),
    [
        ("development", None, True),
        ("testing", None, False),
        ("production", None, False),
        ("staging", None, False),
        ("production", True, True),
        ("development", False, False),
    ],
)
def test_requests_are_recorded_in_development_and_elsewhere_where_it_is_set(
    environment: str, setting: bool | None, records: bool
):
    settings = Settings(environment=environment, ops=OpsSettings(record_requests=setting))

    assert settings.records_requests is records


@on_sqlite
@pytest.mark.gen_test
async def test_when_the_process_ends_the_recorder_is_gone(settings, make_application: MakeApp, ops_settings):
    seen = Seen(settings.model_copy(update={"ops": ops_settings}), make_application)
    dialect = seen.database.writer.engine.dialect
    before = vars(dialect)["do_execute"]
    await seen.start()
    during = vars(dialect)["do_execute"]
    await seen.stop()

    assert during is not before
    assert vars(dialect)["do_execute"] is before
    assert "do_begin" not in vars(dialect)


@on_sqlite
@pytest.mark.gen_test
async def test_an_outcome_that_is_not_known_is_among_the_worst(seen: Seen, serve: Serve):
    """Also where the answer itself says nothing of it."""

    class Plain(ApiHandler):
        _work = Outcome.UNKNOWN

        async def get(self) -> None:
            await self.run(self.session.execute, text("SELECT 1"))

    client = beside(seen, serve, [("/plain", Plain)])
    await client.get("/plain", headers={"X-Request-Id": "abc.1"})

    assert (await kept(seen, "abc.1"))["reasons"] == ["unknown"]


@on_sqlite
@pytest.mark.gen_test
async def test_requests_of_one_id_are_on_one_page(seen: Seen):
    """A client may choose an id, and send it twice."""
    for _ in range(2):
        await seen.client.get("/shelves", headers={"X-Request-Id": "twice"})
    body = (await seen.client.get("/-/requests/twice.json")).json()
    page = await page_of(seen, "twice")

    first, second = body["requests"]
    assert first["serial"] > second["serial"]
    assert page.count("<article>") == 2


@on_sqlite
@pytest.mark.gen_test
async def test_an_id_that_is_not_kept_is_404_and_the_page_says_what_is_kept(seen: Seen):
    page = await seen.client.get("/-/requests/unknown", headers=BROWSER)
    problem = await seen.client.get("/-/requests/unknown.json")

    assert (page.code, problem.code) == (404, 404)
    assert b"No such request is kept" in page.body
    assert problem.headers["Content-Type"] == "application/problem+json"


@pytest.mark.usefixtures("shelves")
def test_whichever_of_two_processes_is_asked_finds_a_request_of_the_other(
    database_url: str, start_server: StartServer
):
    server = start_server("--processes", "2", "--grace-s", "0", "--record-requests", url=database_url)
    served: dict[int, str] = {}
    for _ in range(200):  # one that is idle may be served by the same process many times
        request_id = server.request("GET", "/shelves").headers["X-Request-Id"]
        lists = server.request("GET", "/-/requests.json").body
        newest = lists["last"][0]
        assert newest["request_id"] == request_id
        served[newest["process"]] = request_id
        if len(served) == 2:
            break

    assert served.keys() == {0, 1}
    assert lists["recording"]
    assert lists["stuck_processes"] == []
    for _ in range(5):
        for process, request_id in served.items():
            [found] = server.request("GET", f"/-/requests/{request_id}.json").body["requests"]
            assert (found["process"], found["units"][0]["statements"][0]["line"]["function"]) == (
                process,
                "list_shelves",
            )

    pids = [each["pid"] for each in server.request("GET", "/stats").body["processes"]]
    os.kill(pids[1], signal.SIGSTOP)
    try:
        of_one = server.request("GET", "/-/requests.json").body
    finally:
        os.kill(pids[1], signal.SIGCONT)
    assert of_one["stuck_processes"] == [1]
    assert {each["process"] for each in of_one["last"]} == {0}


@on_sqlite
@pytest.mark.gen_test
async def test_the_beginning_of_an_id_finds_the_newest_that_begin_so_and_a_whole_id_itself_alone(seen: Seen):
    """An id that is the beginning of others is found by itself."""
    for number in ("", *range(12)):
        await seen.client.get("/shelves", headers={"X-Request-Id": f"8a41{number}"})
    whole = (await seen.client.get("/-/requests/8a41.json")).json()
    begun = (await seen.client.get("/-/requests/8a4.json")).json()
    page = await page_of(seen, "8a4")

    assert ([each["request_id"] for each in whole["requests"]], whole["more"]) == (["8a41"], False)
    assert [each["request_id"] for each in begun["requests"]] == [f"8a41{at}" for at in range(11, 1, -1)]
    assert begun["more"]
    assert page.count("<article>") == 10
    assert "Older ones begin so as well" in page


@on_sqlite
@pytest.mark.debian
@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.gen_test(timeout=60)
async def test_a_request_is_looked_for_by_the_beginning_of_its_id(seen: Seen, page: Page, scripts: bool):
    """In a field; without scripts, which send it, the page says the address."""
    await seen.client.get("/shelves", headers={"X-Request-Id": "8a41c7d2"})
    await page.open(f"http://127.0.0.1:{seen.client.port}/-/requests", scripts=scripts)
    shown = await page.evaluate("document.body.innerText")

    assert ("-/requests/8a41" in shown) is not scripts
    assert ("id of a request" in shown) is scripts
    if scripts:
        await page.evaluate("document.querySelector('#find input').value = ' 8a4 '")
        await page.evaluate("document.querySelector('#find button').click()")
        for _ in range(100):
            shown = await page.evaluate("document.body?.innerText ?? ''")
            if "GET /shelves" in shown and "8a41c7d2" in shown and "attempt 1" in shown:
                break
            await asyncio.sleep(0.05)
        assert "attempt 1: read" in shown
        assert await page.evaluate("location.pathname") == "/-/requests/8a4"
