"""The machinery alone: what unit of work, held response, slot and call cost, without a database in between.

::

    python -m tests.bench machinery --rounds 9 --json machinery.json

First over HTTP: the service with its access line, against a bare Tornado handler (`tests.bench.bare`) that
does the same SQL with the same session calls on the same driver, checks the same bodies, makes the same
answers and logs Tornado's own access line. Then in process: each part by itself, many times over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tornado.httputil import HTTPHeaders, ResponseStartLine

from conf import DatabaseSettings
from db import Database
from db.capacity.limiter import AdmissionLimiter
from handlers.json_api.security_headers import security_headers
from handlers.lifecycle.held_response import HeldResponse
from tests.bench import compare
from tests.bench.calls import CALLS
from tests.bench.databases import Databases
from tests.bench.goal import Goal
from tests.bench.rounds import Spread, ratios
from tests.bench.subjects import bare, ours

CALLED = ("one", "list", "patch", "create")
TIMES = 64
AT_ONCE = 8
"""Fewer than slots, so that none waits."""

GOAL = "a bare Tornado handler, same SQL and session calls"


def measure(
    databases: Databases,
    *,
    driver: str,
    rounds: int,
    tasks: int,
    scale: float = 1.0,
    calls: Sequence[str] = CALLED,
) -> dict[str, Any]:
    """Measure the service against the bare handler, then the parts."""
    # The same SQL: the bare handler has no commit markers.
    own, without = ours(driver, LOG_LEVEL="info", COMMIT_WITNESS="false"), bare(driver)
    samples = compare.measure(
        databases,
        [own, without],
        [CALLS[name] for name in calls],
        rounds=rounds,
        environments=Path(),
        tasks=tasks,
        scale=scale,
    )
    found = [
        Goal(f"the machinery's CPU, {CALLS[call].label}", GOAL, 1.15).found(
            ratios(by_subject[own.name], by_subject[without.name], "cpu_us")
        )
        for call, by_subject in samples.items()
    ]
    parts = asyncio.run(measure_parts(databases.new(1), driver=driver, rounds=rounds))
    return {
        "goals": found,
        "medians": compare.medians(samples),
        "samples": samples,
        "parts_us": {name: spread.rounded() for name, spread in parts.items()},
    }


async def measure_parts(url: str, *, driver: str, rounds: int) -> dict[str, Spread]:
    """Microseconds of this process's CPU for each part: one alone, and several at once."""
    settings = DatabaseSettings(url=url.replace("postgresql://", f"postgresql+{driver}://", 1))
    database = Database(settings)
    limiter = AdmissionLimiter(AT_ONCE, name="bench")

    async def empty_unit() -> None:
        async with database.unit_of_work(read_only=True):
            pass

    async def unit_with_a_call() -> None:
        async with database.unit_of_work(read_only=True) as unit:
            await unit.run(_nothing)

    async def unit_with_two_calls() -> None:
        async with database.unit_of_work(read_only=True) as unit:
            await unit.run(_nothing)
            await unit.run(_nothing)

    async def slot() -> None:
        (await limiter.acquire(1.0)).release()

    async def held_response() -> None:
        response = HeldResponse(Nowhere(), "GET")
        response.write_headers(ResponseStartLine("", 200, "OK"), _headers(), b"{}")
        response.finish()
        response.release({"Server-Timing": "db;dur=0.0"})

    async def headers() -> None:
        _headers()

    parts: dict[str, Callable[[], Awaitable[None]]] = {
        "a task of asyncio": _task,
        "empty unit of work": empty_unit,
        "unit of work with a call": unit_with_a_call,
        "unit of work with two calls": unit_with_two_calls,
        "slot acquired and released": slot,
        "the headers of an answer": headers,
        "held response, with such headers": held_response,
    }
    found: dict[str, list[float]] = {}
    try:
        for turn in range(-1, rounds):
            for name, part in parts.items():
                for at_once in (1, AT_ONCE):
                    took_us = await _time(part, at_once)
                    if turn >= 0:
                        found.setdefault(f"{name}, {at_once} at a time", []).append(took_us)
    finally:
        await database.close()
    return {name: Spread.of(values) for name, values in found.items()}


async def _time(part: Callable[[], Awaitable[None]], at_once: int) -> float:
    before_s = time.process_time()
    for _ in range(TIMES // at_once):
        if at_once == 1:
            await part()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(part())  # type: ignore[arg-type]  # all of them are coroutines
    return (time.process_time() - before_s) / TIMES * 1e6


class Nowhere:
    """A connection that takes everything at once. Lives as long as a held response."""

    def write_headers(self, *answer: object) -> asyncio.Future[None]:
        """Take an answer."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written

    def finish(self) -> None:
        """Nothing follows."""


def _headers() -> HTTPHeaders:
    return HTTPHeaders(
        {
            "Content-Type": "application/json",
            "Date": "Sun, 01 Mar 2020 00:00:00 GMT",
            "ETag": '"1-59fc1c1a4d1c0"',
            "Content-Length": "2",
            **security_headers("http"),
        }
    )


async def _task() -> None:
    """Nothing, which several at once need a task each for."""


def _nothing(*arguments: object) -> None:
    """What a call does here."""
