"""Load over several servers by turns, and the cost of a request to each of them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from server.compare.processes import when_closed
from server.compare.subjects import BAD_ENDS, BROKEN_UPLOADS, end_badly, prefix
from server.compare.wire import Wire

CLIENTS = 16
WARM_UP = 50

AFTERWARDS = 20
"""Requests at the end, to see which servers still answer."""

CUT_OFF_S = 1.0
"""How long no client may have an answer before a turn is cut off: a server without connections has none."""

TEXT = "load"
"""The text of the load's rows."""

ENTRY = json.dumps({"text": TEXT}).encode()


@dataclass(frozen=True)
class Subject:
    """A server under one scope."""

    name: str
    scope: str
    port: int


@dataclass(frozen=True)
class Turn:
    """How many requests of each kind each server has in each round."""

    reads: int
    writes: int
    bad: int


def drive(pipe: Connection, subjects: Sequence[Subject], rounds: int, turn: Turn) -> None:
    """Put the servers under load by turns; sends what is being done, at last all that was measured."""
    logging.disable(logging.CRITICAL)
    when_closed(pipe, lambda: os._exit(0))
    pipe.send(asyncio.run(_drive(pipe.send, subjects, rounds, turn)))


async def _drive(
    progress: Callable[[str], None], subjects: Sequence[Subject], rounds: int, turn: Turn
) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    paths: dict[str, str] = {}
    broken: set[str] = set()  # without a connection by now
    for subject in subjects:
        paths[subject.name] = await _warm_up(subject)
        before = await _usage(subject, everything=True)
        measured[subject.name] = {"scope": subject.scope, "before": before, "turns": []}
    for number in range(rounds):
        # Another one begins each time: the first turn of a round finds another machine than the last.
        first = number % len(subjects)
        order = [each for each in [*subjects[first:], *subjects[:first]] if each.name not in broken]
        for kind in ("read", "write"):
            for subject in order:
                progress(f"round {number + 1} of {rounds}: {kind}s, {subject.name}")
                path = paths[subject.name] if kind == "read" else f"{prefix(subject.scope)}/entries"
                requests = turn.reads if kind == "read" else turn.writes
                result = await _turn(subject, kind, path, requests)
                measured[subject.name]["turns"].append({"round": number, "kind": kind, **result})
                if result["cut_off"]:
                    broken.add(subject.name)
        # All at once: nothing is measured meanwhile, and a server without a connection is slow.
        await asyncio.gather(*(_bad_ends(subject, BAD_ENDS, turn.bad) for subject in order))
    progress("what stays behind")
    # Last: a server that loses a connection by them has none for the next round.
    await asyncio.gather(*(_bad_ends(subject, BROKEN_UPLOADS, turn.bad) for subject in subjects))
    # No cost is measured here, only which servers answer.
    await asyncio.gather(*(_afterwards(subject, measured[subject.name]) for subject in subjects))
    return measured


async def _afterwards(subject: Subject, measured: dict[str, Any]) -> None:
    measured["after"] = await _usage(subject, everything=True)
    measured["afterwards"] = await _turn(subject, "write", f"{prefix(subject.scope)}/entries", AFTERWARDS)


async def _bad_ends(subject: Subject, kinds: Sequence[str], number: int) -> None:
    ends = [end_badly(subject.port, subject.scope, kinds[i % len(kinds)]) for i in range(number)]
    await asyncio.wait_for(asyncio.gather(*ends, return_exceptions=True), 30)


async def _warm_up(subject: Subject) -> str:
    """Send a first few requests; returns the path of an entry to read."""
    wire = await Wire.to(subject.port)
    other = ENTRY.replace(TEXT.encode(), b"warm-up")
    made = await wire.ask("/entries", method="POST", body=other)  # also where the scope would lose it
    path = f"{prefix(subject.scope)}/entries/{made.json()['id']}"
    if subject.scope != "threadlocal":
        for _ in range(WARM_UP):
            await wire.ask(path)
            await wire.ask(f"{prefix(subject.scope)}/entries", method="POST", body=other)
    wire.leave()
    return path


async def _turn(subject: Subject, kind: str, path: str, requests: int) -> dict[str, Any]:
    """Send so many requests from a few clients, each its next one when it has its answer."""
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    left = requests
    method, body = ("GET", b"") if kind == "read" else ("POST", ENTRY)

    async def client() -> None:
        nonlocal left
        wire = await Wire.to(subject.port)
        try:
            while left > 0:
                left -= 1
                sent = time.perf_counter()
                status = (await wire.ask(path, method=method, body=body)).status
                latencies.append(time.perf_counter() - sent)
                statuses[status] = statuses.get(status, 0) + 1
        finally:
            wire.leave()

    before = await _usage(subject)
    began = time.perf_counter()
    clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
    answered, waiting = -1, set(clients)
    while waiting and answered < len(latencies):
        answered = len(latencies)
        _, waiting = await asyncio.wait(waiting, timeout=CUT_OFF_S)
    took_s = time.perf_counter() - began
    for task in waiting:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    after = await _usage(subject)
    good = sum(count for status, count in statuses.items() if status < 400)
    latencies.sort()
    return {
        "requests": len(latencies),
        "good": good,
        "cut_off": bool(waiting),
        "cpu_us": round((after["cpu_s"] - before["cpu_s"]) / max(1, len(latencies)) * 1e6, 1),
        "per_s": round(len(latencies) / took_s, 1),
        "p50_ms": round(_quantile(latencies, 0.50) * 1e3, 3),
        "p99_ms": round(_quantile(latencies, 0.99) * 1e3, 3),
    }


async def _usage(subject: Subject, *, everything: bool = False) -> dict[str, Any]:
    wire = await Wire.to(subject.port)
    try:
        usage: dict[str, Any] = (await wire.ask("/usage?all=1" if everything else "/usage")).json()
        return usage
    finally:
        wire.leave()


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
