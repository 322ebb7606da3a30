"""The five questions that are asked after every fault."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from db import AsyncUnitOfWork, UnitOfWork
from tests.faults.ledger import Ledger
from tests.fixtures.databases import RawSql
from tests.fixtures.leaks import FILES
from tests.fixtures.server import Client

GIVEN_BACK_WITHIN_S = 2.0

MEMORY_MIB = 48
"""A coarse net: with the heaps of a dozen threads memory goes up and down by half of that. A leak of a
request's own is told by `_OURS`, which are counted, and a slow one by the soak."""

_OURS = (UnitOfWork, AsyncUnitOfWork, RequestHandler, HTTPServerRequest)

_POOLED = re.compile(r"(.+)_\d+$")
"""The name of a thread of an executor, which keeps its threads and has a limit."""


class Held(NamedTuple):
    """What a process holds at one moment."""

    threads: Counter[str]
    files: int
    objects: Counter[str]
    memory_mib: float


def held_here() -> Held:
    """What this process holds."""
    gc.collect()
    names = Counter(_POOLED.sub(r"\1", thread.name) for thread in threading.enumerate())
    objects = Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, _OURS))
    return Held(names, len(os.listdir(FILES)), objects, psutil.Process().memory_info().rss / 2**20)


def held_by(pid: int) -> Held:
    """What another process holds, as far as that can be seen from outside."""
    process = psutil.Process(pid)
    with process.oneshot():
        return Held(
            Counter(all=process.num_threads()),
            process.num_fds(),
            Counter(),
            process.memory_info().rss / 2**20,
        )


_ATTEMPTS_MAX = 10


class FiveQuestions:
    """Asks whether all is as it was. Lives as long as one test.

    1. Are all acknowledged writes there? 2. Is nothing of a refused one there? 3. Are all connections back
    within two seconds, as PostgreSQL sees it? 4. Does the next request work, on every connection? 5. Are
    threads, file descriptors and memory where they were?

    Args:
        client: of the application.
        sql: past the application, and past whatever fault there is.
        ledger: what the clients were told.
        pool_size: slots of the writer, and as many of the reader.
        held: what the application's process holds; by default it is this one.
    """

    def __init__(
        self,
        client: Client,
        sql: RawSql,
        ledger: Ledger,
        *,
        pool_size: int,
        held: Callable[[], Held] = held_here,
    ) -> None:
        self._client = client
        self._sql = sql
        self._ledger = ledger
        self._pool_size = pool_size
        self._held = held
        self._before: Held | None = None

    async def remember(self) -> None:
        """Let every connection and thread be made, and note what is held then.

        Requests that are answered fast leave a connection unmade, which would come later: so again and again.
        """
        for attempt in range(_ATTEMPTS_MAX):
            await self._use_every_connection()
            if attempt and len(self._connections()) == 2 * self._pool_size:
                break
        self._before = self._held()

    async def ask(self) -> None:
        """Ask all five, once the fault is over."""
        assert self._before is not None, "call remember() before the fault"
        await self._next_request_works()
        busy = await self._until_none(self._busy_connections)
        assert not busy, f"not given back within {GIVEN_BACK_WITHIN_S:g} s, says PostgreSQL: {busy}"
        await self._use_every_connection()
        wrong = self._ledger.compare(self._sql)
        assert not wrong, "\n".join(wrong)
        more = await self._until_none(self._held_more)
        assert not more, "held more than before: " + "; ".join(more)

    async def _next_request_works(self) -> None:
        read = await self._client.get(f"{self._ledger.resource.path}?limit=1")
        assert read.code == 200, f"the next read: {read!r}"
        await self._write()

    async def _write(self) -> None:
        resource, row_id = self._ledger.resource, self._ledger.new_id()
        answer = await self._client.post(resource.path, resource.new(row_id, 1))
        self._ledger.heard(row_id, 1, answer)
        assert answer.code == 201, f"the next write: {answer!r}"

    async def _use_every_connection(self) -> None:
        path = f"{self._ledger.resource.path}?limit=1"
        reads = [self._client.get(path) for _ in range(self._pool_size * 2)]
        writes = [self._write() for _ in range(self._pool_size * 2)]
        answers = await asyncio.gather(*reads)
        assert [answer.code for answer in answers] == [200] * len(reads)
        await asyncio.gather(*writes)

    async def _until_none(self, look: Callable[[], list[str]]) -> list[str]:
        give_up_at = time.monotonic() + GIVEN_BACK_WITHIN_S
        while True:
            found = look()
            if not found or time.monotonic() > give_up_at:
                return found
            await asyncio.sleep(0.05)

    def _connections(self) -> list[dict[str, Any]]:
        return self._sql(
            "SELECT pid, state, wait_event, left(query, 60) AS query FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND application_name <> 'test'"
        )

    def _busy_connections(self) -> list[str]:
        rows = self._connections()
        busy = [str(row) for row in rows if row["state"] != "idle"]
        return busy or ([f"{len(rows)} connections"] if len(rows) > 2 * self._pool_size else [])

    def _held_more(self) -> list[str]:
        assert self._before is not None
        before, now = self._before, self._held()
        limits = Counter({"onfinish-stopper": 4, "asyncio": 32}) | before.threads  # of each the greater
        more = [f"{now.threads[name]} threads {name!r}" for name in now.threads - limits]
        more += [f"{number} of {name}" for name, number in (now.objects - before.objects).items()]
        if now.files > before.files:
            more.append(f"{now.files} file descriptors, were {before.files}")
        if now.memory_mib > before.memory_mib + MEMORY_MIB:
            more.append(f"{now.memory_mib:.0f} MiB, were {before.memory_mib:.0f}")
        return more
