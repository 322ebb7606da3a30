"""How long a server takes to start, and what memory it holds then: the service and FastAPI on SQLite.

::

    python -m tests.bench start --rounds 9

Each round starts all, one after the other and never beside each other, on a file whose schema is there; a
first round, which is not counted, compiles the modules and fills the file cache. The clock runs from the
start of the process to the first 200 of ``/readyz``, which asks the database in all, over a connection
that is tried again every few milliseconds. Memory is read some seconds later; until then nothing else is
asked. All have an environment with their own requirements and no other package, since each package that is
installed prolongs a start.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import server
from tests.bench.environments import python_of
from tests.bench.files import Files
from tests.bench.goal import Goal
from tests.bench.load import Load, request
from tests.bench.rounds import Sample, Spread, ratios, turned
from tests.bench.subjects import BARE_SQLITE, SQLITE_PEERS, START_TIMEOUT_S, Subject, cpu_s, family, spawned

REST_S = 3.0
"""From the first 200 until the memory is read."""

_LOOK_EVERY_S = 0.002

PEER = SQLITE_PEERS["fastapi-sqlite"]
BARE = BARE_SQLITE._replace(environment="onfinish")
OWN = Subject(
    "onfinish sqlite",
    "onfinish, SQLite",
    environment="onfinish",
    command=("-m", server.__name__, "--port", "{port}"),
    variables=(("ENVIRONMENT", "production"), ("LOG_LEVEL", "warning")),
)
GOALS = {
    "ready_s": Goal("start to the first 200 of /readyz, warm, SQLite", PEER.label, 1.2),
    "rss_mib": Goal("resident memory at rest, SQLite", PEER.label, 1.0),
}


def measure(*, rounds: int, environments: Path | None, scale: float = 1.0) -> dict[str, Any]:
    """Start the service, the bare handler and the peer in turn.

    Args:
        environments: where their Pythons are; None starts the service alone, in this process's own.
        scale: of the time until the memory is read.
    """
    subjects = [OWN, BARE, PEER] if environments else [OWN._replace(environment="")]
    for subject in subjects:  # made before a clock runs
        if subject.environment and environments:
            python_of(subject.environment, environments)
    samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        urls = {subject.name: files.new(1) for subject in subjects}
        for turn in range(-1, rounds):
            for subject in turned(subjects, turn):
                name = subject.name
                found = _start(subject, urls[name], environments or Path(), REST_S * scale)
                if turn < 0:
                    continue
                samples[name].append(found)
                figures = "  ".join(f"{measure} {value:.4g}" for measure, value in found.items())
                print(f"start    {name:20} {figures}", file=sys.stderr, flush=True)
    found_goals = [
        goal.found(
            ratios(samples[OWN.name], samples[PEER.name], measure),
            bare=ratios(samples[BARE.name], samples[PEER.name], measure),
        )
        for measure, goal in GOALS.items()
        if PEER.name in samples
    ]
    medians = {
        name: {measure: Spread.of([one[measure] for one in of_it]).rounded() for measure in of_it[0]}
        for name, of_it in samples.items()
    }
    labels = {subject.name: subject.label for subject in subjects}
    return {"labels": labels, "goals": found_goals, "medians": medians, "samples": samples}


def _start(subject: Subject, url: str, environments: Path, rest_s: float) -> Sample:
    began = time.perf_counter()
    with spawned(subject, url, environments=environments) as (process, port):
        while not _is_ready(port):
            if process.poll() is not None or time.perf_counter() - began > START_TIMEOUT_S:
                raise RuntimeError(f"{subject.label} did not start")
            time.sleep(_LOOK_EVERY_S)
        ready_s = time.perf_counter() - began
        used_s = cpu_s(process.pid)
        time.sleep(rest_s)
        held = [one.memory_full_info() for one in family(process.pid)]
    return {
        "ready_s": ready_s,
        "cpu_s": used_s,
        "rss_mib": sum(one.rss for one in held) / 2**20,
        "pss_mib": sum(one.pss for one in held) / 2**20,
    }


def _is_ready(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), Load(port, 1) as load:
        return load.ask(request("GET", "/readyz")).status == 200
    return False
