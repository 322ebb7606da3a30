"""From one client's connection to a thousand: whether a server serves as much.

::

    python -m tests.bench clients --rounds 5

One process, ten connections to the database, one row a request, each connection with one request under way.
What is compared is the number of requests a second with that at sixteen connections in the same round: of the
service, and beside it of the bare handler and of FastAPI, which show what is the machine's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.calls import CALLS, Board
from tests.bench.databases import Databases
from tests.bench.goal import Goal
from tests.bench.load import Load
from tests.bench.rounds import Spread, turned
from tests.bench.subjects import PEERS, bare, ours, started

CONNECTIONS = (1, 4, 16, 64, 256, 1024)
OF = 16
GOAL = 0.9


def measure(
    databases: Databases,
    *,
    driver: str,
    rounds: int,
    tasks: int,
    peers: Sequence[str],
    environments: Path,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Measure the service, and those of the bare handler and FastAPI that ``peers`` names."""
    # All of them wait for one of ten connections to the database: none is to be refused for that.
    own = ours(driver, POOL_MAX_WAITING=str(max(CONNECTIONS)), POOL_TIMEOUT_S="30")
    without = bare(driver)
    others = [without] if "bare" in peers else []
    others += [PEERS["fastapi"]] if "fastapi" in peers else []
    call = CALLS["one"]
    samples: dict[str, dict[int, list[float]]] = {
        subject.name: {connections: [] for connections in CONNECTIONS} for subject in [own, *others]
    }
    with contextlib.ExitStack() as stack:
        servers = []
        for subject in [own, *others]:
            url = databases.new(tasks)
            server = stack.enter_context(started(subject, url, environments=environments))
            servers.append((server, Board(url, tasks)))
        for turn in range(-1, rounds):
            for connections in CONNECTIONS:
                number = max(2 * connections, round(call.requests * scale))
                for server, board in turned(servers, turn):
                    with Load(server.port, connections) as load:
                        taken = load.run(call.requests_of(board, number), status=call.status)
                    if turn < 0:  # a first round, so that no number of connections is the first
                        continue
                    name = server.subject.name
                    samples[name][connections].append(taken.per_s)
                    print(
                        f"clients  {connections:5}  {name:20}  per_s {taken.per_s:.4g}",
                        file=sys.stderr,
                        flush=True,
                    )

    def kept(name: str, connections: int) -> Spread:
        of_it = samples[name]
        return Spread.of([a / b for a, b in zip(of_it[connections], of_it[OF], strict=True)])

    found = [
        Goal(
            f"throughput, {call.label}, {connections:,} connections", f"{OF} connections", GOAL, at_most=False
        ).found(
            kept(own.name, connections),
            bare=kept(without.name, connections) if without in others else None,
        )
        for connections in CONNECTIONS
        if connections != OF
    ]
    return {
        "labels": {subject.name: subject.label for subject in [own, *others]},
        "per_s": {
            name: {str(connections): Spread.of(values).rounded() for connections, values in of_it.items()}
            for name, of_it in samples.items()
        },
        "kept": {
            name: {str(connections): kept(name, connections).rounded() for connections in CONNECTIONS}
            for name in samples
        },
        "goals": found,
    }
