"""A process in which no thread can be started: requests are late or refused, and no answer is false.

The limit is the kernel's own (RLIMIT_AS), on a server in a process of its own.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import psutil
import pytest
from tornado.ioloop import IOLoop

from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.process import ROOT
from tests.fixtures.server import Client
from tests.handlers.conftest import Notes
from tests.handlers.threads_app import DEADLINE_S, STACK_BYTES

pytestmark = pytest.mark.gen_test

MARGIN_S = 3.0
"""What two busy cores may add, which the process under test shares with others."""

BLOCKS_S = 6.0
"""How long the one thread that there is is kept, where that is to be longer than a deadline."""


class Process:
    """The application under test. Lives as long as the test, which closes it."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.handlers.threads_app", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.client = Client(int(self._process.stdout.readline()))

    @property
    def runs(self) -> bool:
        """Whether it has not been closed yet."""
        return self._process.poll() is None

    async def allow_no_more_threads(self) -> None:
        """From now on the kernel refuses the process the stack of a thread."""
        size = psutil.Process(self._process.pid).memory_info().vms
        self._limit(size + STACK_BYTES // 2)
        assert not (await self.client.get("/state")).json()["starts"]

    def allow_threads(self) -> None:
        """Lift the limit."""
        self._limit(resource.RLIM_INFINITY)

    async def nothing_lent(self) -> None:
        """Wait until everything is back."""
        async with asyncio.timeout(10):
            while (await self.client.get("/state")).json()["lent"]:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.02)

    def close(self) -> str:
        """End it; returns what it has logged."""
        self.client.close()
        try:
            _, err = self._process.communicate(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
        assert self._process.returncode == 0, err.decode()
        return err.decode()

    def _limit(self, size: int) -> None:
        resource.prlimit(self._process.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


ACTIVE, IN_TRANSACTION = "active", "idle in transaction"

Shows = Callable[..., Awaitable[None]]


@pytest.fixture
def backend() -> str:
    """This one alone: the writer of SQLite has one thread."""
    return "postgresql"


@pytest.fixture
def process(database_url: str, notes: Notes, io_loop: IOLoop) -> Iterator[Process]:
    """A server with four slots for writers, and no thread yet."""
    process = Process(database_url)
    yield process
    if process.runs:
        process.allow_threads()
        process.close()


@pytest.fixture
def shows(sql: RawSql) -> Shows:
    """``await shows(state, query)``: wait until PostgreSQL shows such a session of the application."""

    async def wait(state: str, query: str) -> None:
        look = (
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'onfinish%'"
            " AND state = :state AND query LIKE :query"
        )
        async with asyncio.timeout(10):
            while not sql(look, state=state, query=f"%{query}%"):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.02)

    return wait


async def test_work_for_which_no_thread_can_be_started_is_done_by_an_older_one(
    process: Process, notes: Notes, shows: Shows
):
    """The commit of one request comes while another has the only thread: it is late, and a success."""
    adding = asyncio.ensure_future(process.client.post("/add?text=kept&waits=1"))
    await shows(IN_TRANSACTION, "INSERT INTO notes")
    await process.allow_no_more_threads()
    holding = asyncio.ensure_future(process.client.post("/hold?seconds=1"))
    await shows(ACTIVE, "pg_sleep")

    await process.client.post("/go")
    answer = await adding

    assert answer.code == 201
    assert (await holding).code == 200
    assert notes() == ["kept"]
    await process.nothing_lent()


@pytest.mark.parametrize("path", ["/add", "/put-in"])
async def test_where_there_is_no_thread_at_all_a_request_is_refused_and_not_done_later(
    process: Process, notes: Notes, path: str
):
    """503 with Retry-After, and it is true that nothing was applied; with threads again it is served."""
    await process.allow_no_more_threads()
    refused = await process.client.post(f"{path}?text=refused")
    process.allow_threads()
    served = await process.client.post(f"{path}?text=served")

    assert (refused.code, refused.json()["outcome"]) == (503, "not_applied")
    assert int(refused.headers["Retry-After"]) >= 1
    assert served.code == 201
    assert notes() == ["served"]
    await process.nothing_lent()


@pytest.mark.slow
async def test_a_commit_that_no_thread_has_begun_by_the_deadline_is_never_sent(
    process: Process, notes: Notes, shows: Shows
):
    """504 in time, nothing applied, then or later; its connection comes back when the thread is free."""
    adding = asyncio.ensure_future(process.client.post("/late?text=late&waits=1"))
    await shows(IN_TRANSACTION, "INSERT INTO notes")
    began = own_time()
    await process.allow_no_more_threads()
    holding = asyncio.ensure_future(process.client.post(f"/hold?seconds={BLOCKS_S}"))
    await shows(ACTIVE, "pg_sleep")

    await process.client.post("/go")
    answer = await adding
    took_s = own_time() - began
    held = await holding

    assert (answer.code, answer.json()["outcome"]) == (504, "not_applied")
    assert took_s < DEADLINE_S + MARGIN_S
    assert held.code == 200
    await process.nothing_lent()
    assert notes() == []
    assert (await process.client.post("/add?text=next")).code == 201
    assert notes() == ["next"]


@pytest.mark.slow
async def test_a_function_that_no_thread_has_begun_by_the_deadline_is_never_called(
    process: Process, notes: Notes, shows: Shows
):
    """The same, for the first function of a request."""
    assert (await process.client.post("/add?text=first")).code == 201  # there is one thread now
    await process.allow_no_more_threads()
    holding = asyncio.ensure_future(process.client.post(f"/hold?seconds={BLOCKS_S}"))
    await shows(ACTIVE, "pg_sleep")

    began = own_time()
    answer = await process.client.post("/late?text=late")
    took_s = own_time() - began
    held = await holding

    assert (answer.code, answer.json()["outcome"]) == (504, "not_applied")
    assert took_s < DEADLINE_S + MARGIN_S
    assert held.code == 200
    await process.nothing_lent()
    assert notes() == ["first"]


@pytest.mark.slow
async def test_a_stopped_statement_is_answered_in_time_without_a_thread_that_could_cancel_it(
    process: Process, notes: Notes, sql: RawSql
):
    """Its link is cut by the event loop itself; PostgreSQL finds that out later."""
    assert (await process.client.post("/add?text=first")).code == 201
    await process.allow_no_more_threads()

    began = own_time()
    answer = await process.client.post("/long")
    took_s = own_time() - began
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%; SELECT pg_sleep(60)'")

    assert (answer.code, answer.json()["outcome"]) == (504, "not_applied")
    assert took_s < DEADLINE_S + MARGIN_S
    await process.nothing_lent()
    assert (await process.client.post("/add?text=next")).code == 201


async def test_that_no_thread_can_be_started_is_logged_once(process: Process, shows: Shows):
    """With the reason, and how many there are."""
    assert (await process.client.post("/add?text=first")).code == 201
    await process.allow_no_more_threads()
    holding = asyncio.ensure_future(process.client.post("/hold?seconds=0.5"))
    await shows(ACTIVE, "pg_sleep")
    await asyncio.gather(*(process.client.post(f"/add?text={number}") for number in range(3)))
    await holding
    process.allow_threads()

    lines = [line for line in process.close().splitlines() if "no thread" in line]

    assert len(lines) == 1
    assert "onfinish-writer: no thread could be started (can't start new thread)" in lines[0]
    assert "1 of 4 run" in lines[0]
