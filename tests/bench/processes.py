"""Two processes against one, on a load that is not bound by the database.

::

    python -m tests.bench processes --rounds 9 --json processes.json

The load is a bulk of a hundred tasks whose last one has a fault: all of it is read and checked, nothing is
asked of the database, and the client has little to do beside it. A machine needs two processors for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench import rows
from tests.bench.databases import Databases
from tests.bench.goal import Goal
from tests.bench.load import Load, request
from tests.bench.rounds import Sample, Spread, ratios, sample
from tests.bench.subjects import Server, ours, started

CONNECTIONS = 32
"""Which go to whichever process is free: of few, one process may have most."""

REQUESTS = 600
ITEMS = 100

GOAL = Goal("requests per second, two processes", "one", 1.7, at_most=False)

_REFUSED = request("POST", "/tasks/bulk", {"items": [*[rows.NEW] * (ITEMS - 1), rows.NEW | {"bundle": ""}]})


def measure(databases: Databases, *, driver: str, rounds: int, scale: float = 1.0) -> dict[str, Any]:
    """Measure one process and two in turn."""
    number = max(CONNECTIONS, round(REQUESTS * scale))
    url = databases.new(1)
    samples: dict[str, list[Sample]] = {"1": [], "2": []}
    one, two = (ours(driver, PROCESSES=name) for name in samples)
    with (
        started(one, url, environments=Path()) as first,
        started(two, url, environments=Path()) as second,
    ):
        for server in (first, second):
            _drive(server, number)
        for turn in range(rounds):
            for name, server in (("1", first), ("2", second))[:: 1 if turn % 2 else -1]:
                samples[name].append(_drive(server, number))
    medians = {
        name: {measure: Spread.of([one[measure] for one in of_it]).rounded() for measure in of_it[0]}
        for name, of_it in samples.items()
    }
    found = [GOAL.found(ratios(samples["2"], samples["1"], "per_s"))]
    return {"goals": found, "medians": medians, "samples": samples}


def _drive(server: Server, number: int) -> Sample:
    with Load(server.port, CONNECTIONS, first=_REFUSED) as load:
        before_s = server.cpu_s()
        taken = load.run(iter([_REFUSED] * number), status=422)
        return sample(server, taken, server.cpu_s() - before_s)
