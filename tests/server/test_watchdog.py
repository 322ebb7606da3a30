"""The watchdog: what stays open for too long, and a loop that stands still, are told with where and why."""

from __future__ import annotations

import asyncio
import linecache
import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.web import Application

from conf import OpsSettings
from db.observer import Observer
from handlers import ApiHandler
from server.monitoring.tracebacks import Origin, origin_here
from tests.fixtures.backends import GREENLETS
from tests.fixtures.process import StartServer
from tests.fixtures.server import Serve
from tests.fixtures.waiting import wait_until
from tests.server.conftest import Seen

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

LOG = "onfinish.watchdog"


async def some(records: list[logging.LogRecord]) -> str:
    """The first record, when it has come."""
    assert await asyncio.to_thread(wait_until, lambda: bool(records), timeout_s=10)
    return records[0].getMessage()


class TestLeaks:
    """Units of work that are never ended."""

    @pytest.fixture
    def ops_settings(self) -> OpsSettings:
        return OpsSettings(leak_s=0.3, lag_s=None)

    @pytest.mark.gen_test
    async def test_a_unit_of_work_that_stays_open_is_logged_once(self, seen: Seen, serve: Serve, expect_log):
        """With the stack that opened it, the line where it waits now, and its last SQL without parameters."""
        go_on = asyncio.Event()

        class ForgetfulHandler(ApiHandler):
            async def get(self) -> None:
                await self.run(self.session.execute, text("SELECT :word AS secret"), {"word": "hush"})
                await self.wait_for_what_never_comes()

            async def wait_for_what_never_comes(self) -> None:
                await go_on.wait()

        client = serve(Application([("/x", ForgetfulHandler)], database=seen.database))
        with expect_log(LOG, "this unit of work has been open for") as records:
            request = asyncio.create_task(client.get("/x", headers={"X-Request-Id": "abc.1"}))
            told = await some(records)
            await asyncio.sleep(0.5)
            go_on.set()
            await request

        assert len(records) == 1
        head, *_ = told.splitlines()
        assert head.startswith("GET ForgetfulHandler: this unit of work has been open for 0.")
        assert head.endswith("and holds a connection")
        assert "request_id: abc.1" in told
        opened, now = told.split("waits now at:")
        assert "last SQL: SELECT" in opened
        assert "hush" not in told
        assert "self.prepare()" in opened
        assert "handlers/base.py" in opened
        assert "await self.wait_for_what_never_comes()" in now
        assert now.rstrip().splitlines()[-2].strip() == "await go_on.wait()" or "go_on.wait" in now
        assert seen.numbers()["onfinish_leaks_total",] == 1

    @on_sqlite
    @pytest.mark.gen_test
    async def test_a_scope_that_stays_open_is_logged_too(self, seen: Seen, expect_log):
        """A job's, in a thread of its own: there is no request, and no task."""
        leave = threading.Event()

        def forgetful_job() -> None:
            with seen.database.session_scope(label="nightly job"):
                leave.wait(10)

        with expect_log(LOG, "nightly job: this unit of work has been open") as records:
            job = asyncio.create_task(asyncio.to_thread(forgetful_job))
            told = await some(records)
            leave.set()
            await job

        assert "holds no connection" in told
        assert "in forgetful_job" in told
        assert "waits now" not in told

    @on_sqlite
    @pytest.mark.gen_test
    async def test_what_ends_in_time_is_not_mentioned(self, seen: Seen):
        """However many there are."""
        for _ in range(20):
            assert (await seen.client.get("/shelves")).code == 200
            await asyncio.sleep(0.02)
        assert seen.numbers()["onfinish_leaks_total",] == 0


class TestLags:
    """A loop that stands still."""

    @pytest.fixture
    def ops_settings(self) -> OpsSettings:
        return OpsSettings(leak_s=None, lag_s=0.4)

    @on_sqlite
    @pytest.mark.gen_test
    async def test_a_loop_that_stood_still_is_logged_with_the_lag_and_where_it_was(
        self, seen: Seen, expect_log
    ):
        """The stack is that of the time when it stood, not that of the moment when it goes on."""

        def blocking_call() -> None:
            time.sleep(0.8)

        with expect_log(LOG, r"the event loop was blocked for \d+ ms") as records:
            await asyncio.sleep(0.1)
            blocking_call()
            told = await some(records)
            await asyncio.sleep(0.2)

        lag_ms = float(told.split("was blocked for ")[1].split(" ms")[0])
        assert 500 < lag_ms < 3000
        assert "in blocking_call" in told
        assert "time.sleep(0.8)" in told
        assert seen.numbers()["onfinish_loop_lags_total",] >= 1

    @pytest.mark.parametrize("backend", GREENLETS, indirect=True)
    @pytest.mark.gen_test
    async def test_a_model_function_that_blocks_the_loop_is_named(self, seen: Seen, expect_log):
        """In a greenlet, where it waits for something else than the database, as `requests.get` does."""

        def blocking_function(session: Session) -> None:
            session.execute(text("SELECT 1"))
            time.sleep(0.8)

        with expect_log(LOG, r"the event loop was blocked for \d+ ms") as records:
            await asyncio.sleep(0.1)
            async with seen.database.unit_of_work(label="GET Some") as unit:
                await unit.run(blocking_function, unit.session)
            told = await some(records)

        assert "in blocking_function" in told
        assert "time.sleep(0.8)" in told

    @on_sqlite
    @pytest.mark.gen_test
    async def test_where_leaks_are_not_looked_for_no_stack_is_taken(self, seen: Seen):
        """It costs little; nothing is less."""
        async with seen.database.unit_of_work() as unit:
            assert unit.observed is None


@on_sqlite
@pytest.mark.gen_test
async def test_the_watchdog_ends_with_the_server(seen: Seen):
    """No thread and no timer is left; the fixtures would notice. A second end is no harm."""
    assert any(thread.name == "onfinish-watchdog" for thread in threading.enumerate()) is False

    await seen.stop()


def test_the_servers_own_start_is_no_lag(start_server: StartServer):
    """The collector looks at all that was loaded, once, and the banner is printed: no request waits yet."""
    server = start_server("--lag-s", "0.01", "--grace-s", "0", url="sqlite://")
    for _ in range(3):
        assert server.request("GET", "/livez").status == 200
    server.send_signal(signal.SIGTERM)

    assert server.wait() == 0
    assert "in _freeze_objects" not in server.err
    assert "in _report_ready" not in server.err


def test_a_stack_holds_no_frames():
    """What was local where a unit of work was opened can be collected meanwhile."""

    class Large:
        pass

    def open_something() -> tuple[Origin, int]:
        large = Large()
        return origin_here(skip=0), id(large)

    origin, _ = open_something()

    assert "in open_something" in origin.stack()
    assert "return origin_here(skip=0), id(large)" in origin.stack()
    assert origin.stack_now() == ""
    assert all(isinstance(code, type(open_something.__code__)) for code, _ in origin.calls)


def test_a_stack_that_was_told_keeps_nothing_of_the_program_in_memory():
    """`linecache` would keep every file that was ever on a stack: a server grew by a megabyte and a half."""
    linecache.clearcache()

    told = origin_here(skip=0).stack()

    assert "told = origin_here(skip=0).stack()" in told
    assert linecache.cache == {}


def test_a_stack_is_told_without_the_lines_of_a_file_that_is_gone():
    scope: dict[str, Origin] = {"origin_here": origin_here}  # type: ignore[dict-item]
    exec(compile("def f():\n    return origin_here(skip=0)\norigin = f()", "/gone.py", "exec"), scope)

    assert 'File "/gone.py", line 2, in f\n  File' in scope["origin"].stack() + "  File"


def test_an_observer_that_does_nothing_may_be_asked_for_everything():
    """The base class is what `Database` has by default."""
    observer = Observer()
    observer.queued("writer")
    observer.waited("writer", 0.1, queued=True, in_vain=True)
    observer.retries("busy")


def test_a_line_of_a_stack_is_read_once(tmp_path: Path):
    """A loop that is late for want of CPU is late again and again, at much the same lines."""
    path = tmp_path / "module.py"
    path.write_text("def here(origin_here):\n    return origin_here(skip=0)\n")
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)  # a file that can be removed
    origin = names["here"](origin_here)
    first = origin.stack()
    path.unlink()

    assert "return origin_here(skip=0)" in first
    assert origin.stack() == first
