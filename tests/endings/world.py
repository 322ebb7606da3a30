"""The world of the endings: a database, a server on a socket, and a client that reads what comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.observer import ObservedUnit
from handlers import log_request
from server.monitoring.metrics import UNITS, Metrics
from server.monitoring.shared_counters import SharedCounters
from tests.endings.programs import Leave, Program, every_step
from tests.endings.stage import DDL, Answer, Record, Row, Stage
from tests.fixtures.backends import Backend
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import Ear
from tests.fixtures.states import States
from tests.handlers import custody

REQUEST_TIMEOUT_S = 5.0
PATIENCE_S = REQUEST_TIMEOUT_S + 4
"""How long a client waits for an answer that never comes."""

BACK_WITHIN_S = 3.0
"""How long what a request has taken may take to come back."""

_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
_ACCESS = re.compile(r"^(\d{3}) \w+ /(\d+) .* (\w+|-) \S+$")


class Counted(Metrics):
    """The server's own metrics, which note what became of each unit. Lives as long as its database."""

    def __init__(self, tally: SharedCounters) -> None:
        super().__init__(tally.slots[0])
        self._tally = tally
        self.counted: list[tuple[str, str]] = []

    def ended(self, unit: ObservedUnit) -> None:
        """Note by which word it was counted."""
        before = self._words()
        super().ended(unit)
        counted = self._words()
        self.counted += [(unit.label, word) for word in counted if counted[word] != before.get(word, 0)]

    def _words(self) -> dict[str, float]:
        return {labels[1]: numbers[0] for (name, labels), numbers in self._sums() if name == UNITS.name}

    def _sums(self) -> Iterator[tuple[tuple[str, tuple[str, ...]], list[float]]]:
        # Each pool by itself would be more than is asked for: a unit is in one.
        totals: dict[str, float] = {}
        for (name, labels), numbers in self._tally.sums().items():
            if name == UNITS.name:
                totals[labels[1]] = totals.get(labels[1], 0) + numbers[0]
        for word, number in totals.items():
            yield (UNITS.name, ("", word)), [number]


class World:
    """Where programs are played, one after the other. Lives as long as its test, over all examples.

    A database and a server that an example has left unusable are made anew.
    """

    def __init__(
        self, loop: IOLoop, settings: DatabaseSettings, backend: Backend, sql: RawSql, raw: Any, ear: Ear
    ) -> None:
        self._loop = loop
        self._settings = settings.model_copy(
            update={"pool_size": 2, "pool_timeout_s": 1.0, "busy_timeout_s": 0.05}
        )
        self._backend = backend
        self._sql = sql
        self._raw = raw
        self._number = 0
        self._record: Record | None = None
        self._states = States()
        with contextlib.ExitStack() as stack:
            self._log = stack.enter_context(ear.expect("", "", required=False))
            self._access = stack.enter_context(
                ear.expect("tornado.access", "", level=logging.INFO, required=False)
            )
            self._ending = stack.pop_all()
        for statement in DDL[backend]:
            sql(statement)
        self._open()

    def play(self, program: Program) -> Record:
        """Send the request, wait until everything is back, and collect what can be known."""
        self._number += 1
        record = self._record = Record(program, self._number, writes_at_commit=self._backend == "postgresql")
        logged, counted = len(self._log), len(self._metrics.counted)
        self._access.clear()
        with warnings.catch_warnings(), self._busy(record):
            warnings.simplefilter("ignore", RuntimeWarning)  # of a `run` that is not awaited
            try:
                self._loop.asyncio_loop.run_until_complete(self._play(record))  # type: ignore[attr-defined]
            except SystemExit as error:
                record.process_ended = error
        record.log = self._log[logged:]
        record.access = self._access_lines(record)
        record.wrong_states = self._states.wrong(settled=not record.lent)
        record.counted = self._metrics.counted[counted:]
        if record.lent or record.process_ended is not None:
            self._close()
            self._open()
        with contextlib.closing(self._raw.cursor()) as cursor:
            cursor.execute(f"SELECT mark, attempt FROM marks WHERE request = {record.number}")
            record.rows = [Row(*row) for row in cursor.fetchall()]
        return record

    def close(self) -> None:
        """Close all of it."""
        self._close()
        self._states.close()
        self._record = None
        self._log.clear()  # a record holds a traceback, and with it all that was at work
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()  # what was not awaited, and is said to be so when it goes
        self._ending.close()

    def _open(self) -> None:
        self._metrics = Counted(SharedCounters())
        self._database = Database(self._settings, self._metrics)
        application = Application(
            [(r"/\d+", Stage)],
            database=self._database,
            log_function=log_request,
            request_timeout_s=REQUEST_TIMEOUT_S,
            record_of=self._record_of,
        )
        socket, self._port = bind_unused_port()

        async def start() -> None:
            self._server = HTTPServer(application)
            self._server.add_socket(socket)

        self._loop.run_sync(start)

    def _close(self) -> None:
        async def close() -> None:
            self._server.stop()
            await self._server.close_all_connections()
            await self._database.close(grace_s=0.5)
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=1)

        self._loop.run_sync(close)

    def _record_of(self, number: int) -> Record:
        record = self._record
        if record is None or record.number != number:
            raise LookupError(f"request {number} is of an example that is over")
        return record

    def _access_lines(self, record: Record) -> list[tuple[int, str]]:
        found = [_ACCESS.match(line.getMessage()) for line in list(self._access)]
        return [(int(line[1]), line[3]) for line in found if line and int(line[2]) == record.number]

    @contextlib.contextmanager
    def _busy(self, record: Record) -> Iterator[None]:
        if not record.program.busy or self._backend != "sqlite":
            yield
            return
        with self._sql.connect() as other:
            other.execute("BEGIN IMMEDIATE")
            record.release = lambda: other.in_transaction and other.execute("ROLLBACK")
            yield

    async def _play(self, record: Record) -> None:
        others = asyncio.all_tasks()
        began = time.monotonic()
        record.answer = await self._ask(record)
        record.took_s = time.monotonic() - began
        give_up_at = time.monotonic() + BACK_WITHIN_S
        # A client that left hears nothing of the answer: the access line comes when there is one.
        while (lent := self._lent(others)) or not self._access_lines(record):
            if time.monotonic() > give_up_at:
                record.lent = lent
                return
            await asyncio.sleep(0.001)

    def _lent(self, others: set[asyncio.Task[Any]]) -> dict[str, int]:
        lent = custody.lent(self._database)
        tasks = asyncio.all_tasks() - others - {asyncio.current_task()}
        if tasks or self._database.tasks:
            lent["tasks"] = len(tasks | self._database.tasks)
        return lent

    async def _ask(self, record: Record) -> Answer | None:
        program = record.program
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        leaves = any(isinstance(step, Leave) for step in every_step(program.steps))
        try:
            writer.write(
                f"{program.method} /{record.number} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            reading = asyncio.get_running_loop().create_task(reader.read())
            leaving = asyncio.get_running_loop().create_task(record.left.wait())
            await asyncio.wait({reading, leaving}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if reading.done() and not (leaves and record.left.is_set()):
                return _answer(reading.result())
            reading.cancel()
            return None
        finally:
            writer.transport.abort()


def _answer(data: bytes) -> Answer | None:
    found = _STATUS.findall(data)
    if not found:
        return None
    _, _, body = data.partition(b"\r\n\r\n")
    outcome = None
    if b"application/problem+json" in data:
        outcome = json.loads(body)["outcome"]
    return Answer(int(found[0]), outcome, len(found))
