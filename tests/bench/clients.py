"""From one client's connection to a thousand: whether the service serves as much.

::

    python -m tests.bench clients --rounds 5

One process, ten connections to the database, one row a request, each connection with one request under way.
What is compared is the number of requests a second with that at sixteen connections in the same round.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.bench.calls import CALLS, Board
from tests.bench.databases import Databases
from tests.bench.goal import Goal
from tests.bench.load import Load
from tests.bench.rounds import Spread
from tests.bench.subjects import ours, started

CONNECTIONS = (1, 4, 16, 64, 256, 1024)
OF = 16
GOAL = 0.9


def measure(
    databases: Databases, *, driver: str, rounds: int, tasks: int, scale: float = 1.0
) -> dict[str, Any]:
    """Measure the service at each number of connections."""
    call = CALLS["one"]
    # All of them wait for one of ten connections to the database: none is to be refused for that.
    own = ours(driver, POOL_MAX_WAITING=str(max(CONNECTIONS)), POOL_TIMEOUT_S="30")
    samples: dict[int, list[float]] = {connections: [] for connections in CONNECTIONS}
    url = databases.new(tasks)
    board = Board(url, tasks)
    with started(own, url, environments=Path()) as server:
        for turn in range(-1, rounds):
            for connections in CONNECTIONS:
                number = max(2 * connections, round(call.requests * scale))
                with Load(server.port, connections) as load:
                    taken = load.run(call.requests_of(board, number), status=call.status)
                if turn < 0:  # a first round, so that no number of connections is the first
                    continue
                samples[connections].append(taken.per_s)
                print(f"clients  {connections:5}  per_s {taken.per_s:.4g}", file=sys.stderr, flush=True)
    found = [
        Goal(
            f"throughput, {call.label}, {connections:,} connections", f"{OF} connections", GOAL, at_most=False
        ).found(Spread.of([a / b for a, b in zip(samples[connections], samples[OF], strict=True)]))
        for connections in CONNECTIONS
        if connections != OF
    ]
    return {
        "per_s": {str(each): Spread.of(of_it).rounded() for each, of_it in samples.items()},
        "goals": found,
    }
