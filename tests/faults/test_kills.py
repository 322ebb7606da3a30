"""The real server process, killed and stopped at random moments while clients write."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from tests.faults.conftest import POOL_SIZE
from tests.faults.five_questions import FiveQuestions, held_by
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster, free_port
from tests.fixtures.process import ServerProcess, StartServer
from tests.fixtures.server import Client
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.usefixtures("told_in_the_log")

TERM_SHARE = 0.2
"""How many of the ends are in order."""

STOPPED_LOOK_EVERY = 20
"""After so many ends the clients pause, and their answers are held against the database."""

AT_LOAD_TIMEOUT_S = 60.0


class Processes:
    """One server process after another, at the same port. Lives as long as one test."""

    def __init__(self, start: StartServer, url: str) -> None:
        self._start = start
        self._url = url
        self.port = free_port()
        self.process = self._next()

    def _next(self) -> ServerProcess:
        return self._start(
            "--port",
            str(self.port),
            url=self._url,
            environ={"POOL_SIZE": str(POOL_SIZE), "LOG_LEVEL": "error"},
            listens=False,  # the clients find out
        )

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait()

    def go_on(self) -> None:
        """Start the next process."""
        self.process = self._next()


@pytest.fixture
def processes(
    start_server: StartServer, cluster: PostgresCluster, database_name: str, shelves: None
) -> Iterator[Processes]:
    processes = Processes(start_server, cluster.url_for(database_name))
    yield processes
    processes.process.kill()


@pytest.fixture
def service(processes: Processes, io_loop: IOLoop) -> Iterator[Client]:
    """A client of whichever process there is."""
    client = Client(processes.port)
    yield client
    client.close()


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(2, marks=pytest.mark.gen_test(timeout=240)),
        pytest.param(25, marks=[pytest.mark.slow, pytest.mark.gen_test(timeout=600)]),
        pytest.param(250, marks=[pytest.mark.long, pytest.mark.gen_test(timeout=3600)]),
    ],
)
async def test_no_end_of_the_server_loses_an_acknowledged_write(
    ends: int, processes: Processes, service: Client, ledger: Ledger, sql: RawSql
):
    """kill -9, and SIGTERM now and then. An open request that is repeated with its key is done once."""
    chance = random.Random(ends)
    killed = 0
    for first in range(0, ends, STOPPED_LOOK_EVERY):
        async with Load(service, ledger, keyed=True, seed=first):
            for _ in range(first, min(ends, first + STOPPED_LOOK_EVERY)):
                await acknowledged_another(ledger)
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                if killed and chance.random() < TERM_SHARE:
                    assert await asyncio.to_thread(processes.end, signal.SIGTERM) == 0
                else:
                    assert await asyncio.to_thread(processes.end, signal.SIGKILL) == -signal.SIGKILL
                    killed += 1
                await asyncio.to_thread(processes.go_on)
            await acknowledged_another(ledger)
        assert ledger.compare(sql) == []

    print(f"{killed} kills, {ends - killed} stops: {dict(ledger.answers)}")
    questions = FiveQuestions(
        service, sql, ledger, pool_size=POOL_SIZE, held=lambda: held_by(processes.process.pid)
    )
    await questions.remember()
    async with Load(service, ledger):
        await asyncio.sleep(0.5)
    await questions.ask()


async def acknowledged_another(ledger: Ledger) -> None:
    """Wait until the clients have a process to talk to."""
    before = ledger.acknowledged
    found = asyncio.to_thread(
        wait_until, lambda: ledger.acknowledged > before + 3, timeout_s=AT_LOAD_TIMEOUT_S
    )
    assert await found, f"no write was acknowledged any more: {dict(ledger.answers)}"
