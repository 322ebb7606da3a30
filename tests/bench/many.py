"""Many rows at once: a bulk and an export over HTTP, against the driver by itself, without HTTP.

::

    python -m tests.bench many --rounds 5 --json many.json

The bulk against asyncpg's ``executemany`` of the same rows; the export against COPY TO through psycopg2, with
JSON made in Python. Both of those run in a process of their own that is started before its clock is. Rows per
second are of the whole, from the request to the last byte.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

from tests.bench import rows
from tests.bench.calls import Board, WrongAnswer
from tests.bench.databases import Databases
from tests.bench.environments import python_of
from tests.bench.goal import Goal
from tests.bench.load import Load, request
from tests.bench.rounds import Sample, Spread, ratios, sample
from tests.bench.subjects import Server, ours, started
from tests.fixtures.process import ROOT

BULK = 10_000
EXPORT = 1_000_000
FLAT_MIB = 24.0
"""What an export may hold above what the server held before: some pages, and what the heap makes of them."""

_LOOK_EVERY_S = 0.02


def measure(
    databases: Databases,
    *,
    driver: str,
    rounds: int,
    environments: Path | None,
    bulk: int = BULK,
    export: int = EXPORT,
) -> dict[str, Any]:
    """Measure a bulk and an export.

    Args:
        environments: where the peers' Python is; None leaves them out.
    """
    bulk_url, export_url = databases.new(1), databases.new(export)
    reference_url = databases.new(1)
    samples: dict[str, list[Sample]] = {"bulk": [], "executemany": [], "export": [], "COPY TO": []}
    # A bulk of 10,000 is 1.3 MB, an export takes a while.
    variables = {"REQUEST_TIMEOUT_S": "600", "STATEMENT_TIMEOUT_S": "600"}
    subject = ours(driver, **variables)
    with (
        started(subject, bulk_url, environments=Path()) as bulk_server,
        started(subject, export_url, environments=Path()) as export_server,
    ):
        board = Board(bulk_url, 1)
        content = request("POST", "/tasks/bulk", {"items": [rows.NEW] * bulk})
        _post(bulk_server, content, bulk)
        _check_export(export_server, export)
        board.added += bulk
        for _ in range(rounds):
            samples["bulk"].append(_post(bulk_server, content, bulk))
            board.added += bulk
            samples["export"].append(_get(export_server, export))
            if environments is not None:
                alone = _reference("executemany", reference_url, environments, str(bulk))
                samples["executemany"].append(alone)
                samples["COPY TO"].append(_reference("copy_to", export_url, environments))
        board.check_count()
    found = []
    if environments is not None:
        goal = Goal(f"rows per second, bulk of {bulk:,}", "asyncpg `executemany`", 0.5, at_most=False)
        found.append(goal.found(ratios(samples["bulk"], samples["executemany"], "per_s")))
        goal = Goal(
            f"rows per second, export of {export:,}", "`COPY TO`, JSON made in Python", 0.5, at_most=False
        )
        found.append(goal.found(ratios(samples["export"], samples["COPY TO"], "per_s")))
    goal = Goal(f"memory that an export of {export:,} adds, MiB", "1 MiB", FLAT_MIB)
    found.append(goal.found(Spread.of([one["grown_mib"] for one in samples["export"]])))
    medians = {
        name: {measure: Spread.of([one[measure] for one in of_it]).rounded() for measure in of_it[0]}
        for name, of_it in samples.items()
        if of_it
    }
    return {"subject": subject.name, "goals": found, "medians": medians, "samples": samples}


def _post(server: Server, content: bytes, number: int) -> Sample:
    with Load(server.port, 1) as load:
        before_s = server.cpu_s()
        taken = load.run(iter([content]), status=201)
        return sample(server, taken, server.cpu_s() - before_s, rows=number)


def _get(server: Server, number: int) -> Sample:
    with Load(server.port, 1) as load, Memory(server) as memory:
        before_s = server.cpu_s()
        taken = load.run(iter([request("GET", "/tasks/export")]), status=200)
        used_s = server.cpu_s() - before_s
    if taken.lines != number:
        raise WrongAnswer(f"an export of {number} tasks has {taken.lines} lines")
    return {**sample(server, taken, used_s, rows=number), "grown_mib": max(0.0, memory.grown_mib)}


def _check_export(server: Server, number: int) -> None:
    """See to it that an export of every hundredth task has all of them, as they are; how many a whole one has
    is looked at each time."""
    chosen = [at for at in range(1, number + 1) if at % 100 == 1]
    day = rows.task(1)["target_date"]
    content = request("GET", f"/tasks/export?target_from={day}&target_to={day}")
    with Load(server.port, 1) as load:
        found = [json.loads(line) for line in load.ask(content).body.splitlines()]
    expected = sorted((rows.task(at) for at in chosen), key=lambda task: str(task["id"]))
    if found != expected:
        raise WrongAnswer(f"an export of {len(expected)} tasks has {len(found)}, or other ones")


def _reference(name: str, url: str, environments: Path, *arguments: str) -> Sample:
    command = [str(python_of("tornado", environments)), "-m", f"tests.bench.peers.{name}", *arguments]
    environ = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), "DATABASE_URL": url}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    found: Sample = json.loads(done.stdout)
    return found


class Memory:
    """The most that a server holds. Lives as long as its ``with`` block, and looks all the time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._before_mib = self._most_mib = server.memory_mib()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown_mib(self) -> float:
        """What it held at most, above what it held at the beginning."""
        return self._most_mib - self._before_mib

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._most_mib = max(self._most_mib, self._server.memory_mib())
