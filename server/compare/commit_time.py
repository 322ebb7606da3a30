"""When the commit happens: what was acknowledged, and what is in the database, under faults."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import quote

from sqlalchemy import select

from conf import DatabaseSettings
from db import make_engine
from db.engines.engine import blocking
from server.compare.cost import START_S
from server.compare.idioms import IDIOMS, LINGER_S, idioms
from server.compare.model import REFUSED_AT_COMMIT, Entry
from server.compare.processes import Worker, when_closed
from server.compare.scratch import scratch_database
from server.compare.subjects import serve
from server.compare.wire import UNANSWERED, Wire

FAULTS = {
    "commit": "a COMMIT that fails",
    "raise": "an exception after a flush",
    "leave": "a client that leaves",
    "kill": "a server killed under load",
}
"""The faults, each with its title."""

GOOD = "good"

CLIENTS = 16
ACKNOWLEDGED_BEFORE_KILL = 40

SETTLE_S = 0.1
"""How long a COMMIT that a killed server had sent may take to be carried out."""


@dataclass
class Count:
    """The answers that clients had, against what is in the database."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    lost: int = 0
    """Acknowledged, and not in the database."""
    kept_though_refused: int = 0
    kept_unanswered: int = 0
    good_refused: int = 0
    """Requests without a fault that were refused, for what an earlier one had left or held."""
    connections_out: int = 0


@dataclass(frozen=True)
class Amount:
    """How often each fault is made."""

    requests: int
    kills: int
    leaves: bool = True
    """Whether clients leave, too: what becomes of their requests is a matter of time."""

    @property
    def faults(self) -> list[str]:
        """Those that are made at all."""
        left_out = {"kill": not self.kills, "leave": not self.leaves}
        return [fault for fault in FAULTS if not left_out.get(fault, False)]


def commit_times(
    settings: DatabaseSettings, amount: Amount, progress: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Every fault under every way to commit.

    Args:
        settings: where the scratch databases are made.
        amount: how often.
        progress: called with the title of each fault.

    Returns:
        By fault and idiom: a `Count`.
    """
    found: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        databases = {idiom: _prepared(stack.enter_context(scratch_database(settings))) for idiom in IDIOMS}
        threads = stack.enter_context(ThreadPoolExecutor(len(IDIOMS)))

        def count(idiom: str, fault: str) -> dict[str, Any]:
            counted = Count()
            for number in range(amount.kills if fault == "kill" else 1):
                _one(databases[idiom], idiom, f"{idiom} {number}", fault, amount, counted)
            return asdict(counted)

        for fault in amount.faults:
            progress(FAULTS[fault])
            # Each on a database of its own, so that none waits for another's lock.
            counts = threads.map(functools.partial(count, fault=fault), IDIOMS)
            found[fault] = dict(zip(IDIOMS, counts, strict=True))
    return found


_LIMITS = {"pool_size": CLIENTS, "pool_timeout_s": 1.0, "busy_timeout_s": 0.5}


def _one(settings: DatabaseSettings, idiom: str, name: str, fault: str, amount: Amount, count: Count) -> None:
    with Worker(serve, settings, idioms) as server:
        port = server.receive(START_S)
        victim = server.pid if fault == "kill" else None
        with Worker(ask, port, idiom, name, fault, amount.requests, victim) as client:
            answers: dict[str, Any] = client.receive(START_S)
    time.sleep(SETTLE_S)
    rows = _rows(settings)
    statuses: dict[str, int] = answers["statuses"]
    count.sent += len(statuses)
    count.connections_out += answers["out"]
    for text, status in statuses.items():
        there = text in rows
        if status == UNANSWERED:
            count.unanswered += 1
            count.kept_unanswered += there
        elif status < 400:
            count.acknowledged += 1
            count.lost += not there
        else:
            count.refused += 1
            count.kept_though_refused += there
            count.good_refused += text.startswith(GOOD)


def _prepared(settings: DatabaseSettings) -> DatabaseSettings:
    return settings.model_copy(update=_LIMITS)


def _rows(settings: DatabaseSettings) -> set[str]:
    engine = make_engine(blocking(settings), "reader")
    try:
        with engine.connect() as connection:
            return set(connection.scalars(select(Entry.text)))
    finally:
        engine.dispose()


# -- in a process of its own


def ask(
    pipe: Connection, port: int, idiom: str, name: str, fault: str, requests: int, victim: int | None
) -> None:
    """Send the requests; sends the status of each back.

    Args:
        victim: the process id of a server that is killed in the moment in which the last of
            `ACKNOWLEDGED_BEFORE_KILL` answers is read.
    """
    logging.disable(logging.CRITICAL)
    when_closed(pipe, lambda: os._exit(0))
    pipe.send(asyncio.run(_ask(port, idiom, name, fault, requests, victim)))


async def _ask(
    port: int, idiom: str, name: str, fault: str, requests: int, victim: int | None
) -> dict[str, Any]:
    if victim is not None:
        return {"statuses": await _until_killed(victim, port, idiom, name), "out": 0}
    statuses: dict[str, int] = {}
    for number in range(requests):
        text = f"{REFUSED_AT_COMMIT if fault == 'commit' else fault} {name} {number}"
        statuses[text] = await _send(port, idiom, text, fault)
        # One without a fault after each: what a connection was left with must not harm it.
        good = f"{GOOD} {fault} {name} {number}"
        statuses[good] = await _send(port, idiom, good, "")
    await asyncio.sleep(0.1)
    wire = await Wire.to(port)
    out = (await wire.ask("/out")).json()["out"]
    wire.leave()
    return {"statuses": statuses, "out": out}


async def _send(port: int, idiom: str, text: str, fault: str) -> int:
    wire = await Wire.to(port)
    try:
        wire.send(f"/{idiom}?text={quote(text)}&fault={fault}")
        if fault != "leave":
            return (await wire.answer()).status
        await asyncio.sleep(LINGER_S / 3)
        return UNANSWERED
    finally:
        wire.leave()
        if fault == "leave":
            await asyncio.sleep(LINGER_S)


async def _until_killed(victim: int, port: int, idiom: str, name: str) -> dict[str, int]:
    statuses: dict[str, int] = {}
    acknowledged = 0

    async def client(client_number: int) -> None:
        nonlocal acknowledged
        wire = await Wire.to(port)
        number = 0
        while True:
            text = f"kill {name} {client_number}-{number}"
            statuses[text] = UNANSWERED
            status = (await wire.ask(f"/{idiom}?text={quote(text)}", method="POST")).status
            if status == UNANSWERED:
                break
            statuses[text] = status
            acknowledged += status < 400
            if acknowledged == ACKNOWLEDGED_BEFORE_KILL:
                acknowledged += 1
                os.kill(victim, signal.SIGKILL)
            number += 1
        wire.leave()

    await asyncio.wait([asyncio.ensure_future(client(each)) for each in range(CLIENTS)], timeout=10)
    return statuses


__all__ = ["FAULTS", "Amount", "commit_times"]
