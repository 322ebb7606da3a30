"""When the commit happens: what a client was told, and what is in the database, under faults."""

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
from db.board.tasks import Task
from server.compare.cost import START_S
from server.compare.idioms import IDIOMS, LINGER_S, REFUSE_AT_COMMIT, REFUSED_AT_COMMIT, idioms
from server.compare.place import own_place
from server.compare.processes import Worker, when_closed
from server.compare.subjects import serve
from server.compare.wire import UNANSWERED, Wire

FAULTS = {
    "commit": "a COMMIT that fails",
    "raise": "an exception after a flush",
    "leave": "a client that leaves",
    "kill": "a server killed under load",
}
"""What goes wrong, and how it is told."""

GOOD = "good"

CLIENTS = 16
ACKNOWLEDGED_BEFORE_KILL = 40

SETTLE_S = 0.1
"""A COMMIT that a killed server had sent may still be carried out: it is given the time."""


@dataclass
class Count:
    """What clients were told, against what is in the database."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    lost: int = 0
    """Acknowledged, and not there."""
    kept_though_refused: int = 0
    kept_unanswered: int = 0
    good_refused: int = 0
    """Requests with nothing wrong that were refused all the same, for what another had left or held."""
    connections_out: int = 0


@dataclass(frozen=True)
class Amount:
    """How often each fault is made."""

    requests: int
    kills: int


def commit_times(
    settings: DatabaseSettings, amount: Amount, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Every fault under every way to commit.

    Args:
        settings: where the databases are made.
        amount: how often.
        tell: is told what is being done.

    Returns:
        By fault and idiom: a `Count`.
    """
    found: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        limiter = {idiom: _prepared(stack.enter_context(own_place(settings))) for idiom in IDIOMS}
        threads = stack.enter_context(ThreadPoolExecutor(len(IDIOMS)))

        def count(idiom: str, fault: str) -> dict[str, Any]:
            counted = Count()
            for number in range(amount.kills if fault == "kill" else 1):
                _one(limiter[idiom], idiom, f"{idiom} {number}", fault, amount, counted)
            return asdict(counted)

        for fault in FAULTS:
            tell(FAULTS[fault])
            # Each on a database of its own, so that none waits for another's lock.
            counts = threads.map(functools.partial(count, fault=fault), IDIOMS)
            found[fault] = dict(zip(IDIOMS, counts, strict=True))
    return found


_LIMITS = {"pool_size": CLIENTS, "pool_timeout_s": 1.0, "busy_timeout_s": 0.5}


def _one(place: DatabaseSettings, idiom: str, name: str, fault: str, amount: Amount, count: Count) -> None:
    with Worker(serve, place, idioms) as server:
        port = server.receive(START_S)
        victim = server.pid if fault == "kill" else None
        with Worker(ask, port, idiom, name, fault, amount.requests, victim) as client:
            told: dict[str, Any] = client.receive(START_S)
    time.sleep(SETTLE_S)
    rows = _rows(place)
    statuses: dict[str, int] = told["statuses"]
    count.sent += len(statuses)
    count.connections_out += told["out"]
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


def _prepared(place: DatabaseSettings) -> DatabaseSettings:
    place = place.model_copy(update=_LIMITS)
    engine = make_engine(place, "migration")
    try:
        with engine.begin() as connection:
            for statement in REFUSE_AT_COMMIT[connection.dialect.name]:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()
    return place


def _rows(place: DatabaseSettings) -> set[str]:
    engine = make_engine(place, "reader")
    try:
        with engine.connect() as connection:
            return set(connection.scalars(select(Task.bundle)))
    finally:
        engine.dispose()


# -- in a process of its own


def ask(
    pipe: Connection, port: int, idiom: str, name: str, fault: str, requests: int, victim: int | None
) -> None:
    """Send the requests; sends back what each was told.

    Args:
        victim: the process id of a server that is to be killed when enough has been acknowledged, in the
            moment in which the last of it is read.
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
        # A good one after each: what was left in a connection must not become its trouble.
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
