"""Reads while writes hang: what others notice of requests that wait for a row.

::

    python -m tests.bench locks --rounds 9 --json locks.json

A connection of our own holds the locks of some rows, and as many PATCH requests wait for them, of which the
database says that they do. In each round one row is read over sixteen connections, alone and while they
hang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import rows
from tests.bench.calls import CALLS, Board
from tests.bench.compare import CONNECTIONS
from tests.bench.databases import Databases, connected
from tests.bench.goal import Goal
from tests.bench.load import Load, LoadError, request
from tests.bench.rounds import Sample, Spread, ratios, sample
from tests.bench.subjects import Server, ours, started
from tests.fixtures.waiting import wait_until

POOL_SIZE = 10
SOME = 8

GOALS = {
    SOME: Goal(f"p99 of one row while {SOME} requests hang on a row lock", "its p99 alone", 2.0),
    POOL_SIZE: Goal(
        "reads per second while writes hang on a row lock in every slot of the writer",
        "the same alone",
        0.8,
        at_most=False,
    ),
}
_MEASURES = {SOME: "p99_ms", POOL_SIZE: "per_s"}

# Long enough that no request times out while they hang.
_PATIENCE = {"REQUEST_TIMEOUT_S": "600", "LOCK_TIMEOUT_S": "600", "STATEMENT_TIMEOUT_S": "600"}


def measure(
    databases: Databases, *, driver: str, rounds: int, tasks: int, scale: float = 1.0
) -> dict[str, Any]:
    """Measure reads beside writes that hang."""
    url = databases.new(tasks)
    board = Board(url, tasks)
    number = max(CONNECTIONS, round(CALLS["one"].requests * scale))
    samples: dict[str, list[Sample]] = {"alone": [], **{f"{hanging} hang": [] for hanging in GOALS}}
    subject = ours(driver, POOL_SIZE=str(POOL_SIZE), **_PATIENCE)
    with started(subject, url, environments=Path()) as server:
        with Load(server.port, 1) as load:
            CALLS["one"].check(load, board)
        _read(server, board, number)
        for _ in range(rounds):
            samples["alone"].append(_read(server, board, number))
            for hanging in GOALS:
                with _hanging(server, hanging):
                    samples[f"{hanging} hang"].append(_read(server, board, number))
    found = []
    for hanging, goal in GOALS.items():
        found.append(goal.found(ratios(samples[f"{hanging} hang"], samples["alone"], _MEASURES[hanging])))
    medians = {
        name: {measure: Spread.of([one[measure] for one in of_it]).rounded() for measure in of_it[0]}
        for name, of_it in samples.items()
    }
    return {"subject": subject.name, "goals": found, "medians": medians, "samples": samples}


def _read(server: Server, board: Board, number: int) -> Sample:
    call = CALLS["one"]
    requests = call.requests_of(board, number)
    with Load(server.port, CONNECTIONS) as load:
        before_s = server.cpu_s()
        taken = load.run(requests, status=call.status)
        return sample(server, taken, server.cpu_s() - before_s)


@contextlib.contextmanager
def _hanging(server: Server, number: int) -> Iterator[None]:
    """In the block so many changes wait for a row each, and afterwards all of them are answered."""
    ids = [rows.task_id(at + 1) for at in range(number)]
    with connected(server.url) as watching, connected(server.url) as holding, holding.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 FROM tasks WHERE id = ANY(%s) FOR UPDATE", (ids,))
        with Load(server.port, number) as load:
            load.send(request("PATCH", f"/tasks/{task_id}", {"bundle": "held"}) for task_id in ids)

            def all_wait() -> bool:
                with watching.cursor() as asking:
                    asking.execute(
                        "SELECT count(*) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    )
                    return bool(asking.fetchone()[0] == number)

            if not wait_until(all_wait, timeout_s=30):
                raise LoadError(f"{number} requests were to hang on a lock, and do not")
            yield
            if not all_wait():
                raise LoadError("the requests that were to hang did not hang all the time")
            cursor.execute("ROLLBACK")
            if {answer.status for answer in load.wait()} != {200}:
                raise LoadError("a request that hung was not answered when its lock was free")
