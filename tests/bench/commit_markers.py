"""What commit markers cost: creations with them and without them, in alternating rounds.

::

    python -m tests.bench commit-markers --rounds 9 --requests 1500

Two servers on one PostgreSQL, a database each. Told are the server's CPU and PostgreSQL's for each
creation, the median latency of one connection, and the ratio of each pair of rounds: its median, and how
far the middle half of them lies apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.bench.driver import Connection, percentile_ms
from tests.bench.service import new_database, postgresql, serving
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ServerProcess

CONNECTIONS = 4
TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}
MEASURES = ("server_cpu_us", "postgres_cpu_us", "p50_ms")


async def create(server: ServerProcess, requests: int) -> array[float]:
    """Create tasks over a few connections; returns the latencies."""
    latencies_s, statuses = array("d"), Counter[int]()

    async def work() -> None:
        async with Connection(server.port, latencies_s, statuses) as connection:
            for _ in range(requests // CONNECTIONS):
                await connection.request("POST", "/tasks", TASK)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    if set(statuses) != {201}:
        raise RuntimeError(f"not all were created: {dict(statuses)}")
    return latencies_s


def cpu_s(process: psutil.Process) -> float:
    """What a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def postgres_cpu_s(cluster: PostgresCluster) -> float:
    """What the server's processes have used so far. Connections stay, so none takes its share with it.

    Told by the scheduler in nanoseconds: the usual clock ticks a hundred times a second, which a backend
    that works for a moment at a time may never meet.
    """
    postmaster = psutil.Process(cluster.pid)
    used_ns = 0
    for process in [postmaster, *postmaster.children()]:
        with contextlib.suppress(FileNotFoundError):  # a worker that has ended
            used_ns += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
    return used_ns / 1e9


def measure(cluster: PostgresCluster, server: ServerProcess, requests: int) -> dict[str, float]:
    """One round."""
    process = psutil.Process(server.pid)
    before_s, postgres_before_s = cpu_s(process), postgres_cpu_s(cluster)
    latencies_s = asyncio.run(create(server, requests))
    number = len(latencies_s)
    return {
        # The kernel counts in ticks: of a few requests there may be none, and a ratio needs one.
        "server_cpu_us": max(TICK_S, cpu_s(process) - before_s) / number * 1e6,
        "postgres_cpu_us": max(TICK_S, postgres_cpu_s(cluster) - postgres_before_s) / number * 1e6,
        "p50_ms": percentile_ms(latencies_s, 0.5),
    }


TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def compared(rounds: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """Medians of both, and of the ratios within each pair, with the quartiles of those."""
    result: dict[str, Any] = {}
    for name in MEASURES:
        ratios = [with_[name] / without[name] for with_, without in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        result[name] = {
            "with": round(statistics.median(with_[name] for with_, _ in rounds), 3),
            "without": round(statistics.median(without[name] for _, without in rounds), 3),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench commit-markers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of rounds")
    parser.add_argument("--requests", type=int, default=1_500, help="creations in each round")
    parser.add_argument("--json", type=Path, help="where the result goes as JSON")
    options = parser.parse_args(arguments)
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    began = time.monotonic()
    with (
        postgresql() as cluster,
        serving(new_database(cluster), COMMIT_WITNESS="true") as with_,
        serving(new_database(cluster), COMMIT_WITNESS="false") as without,
    ):
        for server in (with_, without):
            measure(cluster, server, options.requests)  # warm-up
        for number in range(options.rounds):
            order = (with_, without) if number % 2 else (without, with_)
            taken = {id(server): measure(cluster, server, options.requests) for server in order}
            rounds.append((taken[id(with_)], taken[id(without)]))
    result = {"rounds": options.rounds, "requests": options.requests, **compared(rounds)}
    for name in MEASURES:
        print(f"{name:16} {result[name]}")
    print(f"{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
