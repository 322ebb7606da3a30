"""Goodput: what is served of more than can be served.

::

    python -m tests.bench goodput --rounds 9

An open loop (`open_loop`): requests come at 1.5 and 3 times the rate that the process serves in a closed one,
whether or not those before are answered. Where all slots are taken and `WAITING` callers wait, the next is
refused (`database.pool_max_waiting`).

Each round measures, of one server:

* the capacity C: requests a second in a closed loop of fifty connections, which refuses none, and c_a, the
  CPU of one of them;
* c_r, the CPU of a refusal, over as many connections as in the open loop: a lock on the table holds all slots
  and all places in the queue, and everything else is refused;
* at each multiple k of C the goodput g: right answers a second within the time of measurement.

The ideal g solves g c_a + (k C - g) c_r = a, and is at most k C. Here a is the share of a core that was
available: 1 less the time that the server's main thread was ready to run and did not, since others had
the processors (the generator and PostgreSQL among them; the kernel's `schedstat` has it). So a server
that idles loses by it. Where refusing all of k C takes more than a, nothing is left, and the ratio is 0:
what is missing is a cheaper refusal.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.calls import CALLS, Board, Call
from tests.bench.databases import Databases, connected
from tests.bench.goal import Goal
from tests.bench.load import Load, LoadError
from tests.bench.open_loop import offer
from tests.bench.rounds import Sample, Spread
from tests.bench.subjects import Server, ours, started
from tests.fixtures.waiting import wait_until

CALLED = ("one", "create")
TIMES = (1.5, 3.0)
SLOTS = 10
WAITING = 50
OPEN_CONNECTIONS = 1_024
SECONDS, LEAD_S = 3.0, 1.0
REFUSED = 503
REFUSAL_MAX_MS = 100.0
GOAL = 0.9
AGAINST = "what refusals leave of a core"

# Long enough that what is held by the lock does not time out.
_PATIENCE = {
    "REQUEST_TIMEOUT_S": "600",
    "LOCK_TIMEOUT_S": "600",
    "STATEMENT_TIMEOUT_S": "600",
    "POOL_TIMEOUT_S": "600",
}


def measure(
    databases: Databases,
    *,
    driver: str,
    rounds: int,
    tasks: int,
    scale: float = 1.0,
    calls: Sequence[str] = CALLED,
) -> dict[str, Any]:
    """Measure the service at each call and multiple of its capacity."""
    own = ours(driver, POOL_SIZE=str(SLOTS), POOL_MAX_WAITING=str(WAITING), **_PATIENCE)
    url = databases.new(tasks)
    board = Board(url, tasks)
    connections = max(WAITING, round(OPEN_CONNECTIONS * min(1.0, scale)))
    samples: dict[str, list[Sample]] = {}
    goals = []
    with started(own, url, environments=Path()) as server:
        for call in [CALLS[name] for name in CALLED if name in calls]:
            number = max(WAITING, round(call.requests * scale))
            _capacity(server, call, board, number)
            for _ in range(rounds):
                capacity, accepted_us = _capacity(server, call, board, number)
                with _all_held(server, call, board):
                    refused_us = _refused_us(server, call, board, number, connections)
                for times in TIMES:
                    found = _offered(server, call, board, capacity * times, scale, connections)
                    found |= {"capacity": capacity, "accepted_us": accepted_us, "refused_us": refused_us}
                    found["ideal"] = ideal(
                        found["offered"],
                        accepted_s=accepted_us / 1e6,
                        refused_s=refused_us / 1e6,
                        available=found["available"],
                    )
                    found["ratio"] = found["goodput"] / found["ideal"] if found["ideal"] > 0 else 0.0
                    name = f"{call.name} {times:g}"
                    samples.setdefault(name, []).append(found)
                    figures = "  ".join(f"{measure} {value:.4g}" for measure, value in found.items())
                    print(f"goodput  {name:12} {figures}", file=sys.stderr, flush=True)
            for times in TIMES:
                of_it = samples[f"{call.name} {times:g}"]
                at = f"{call.label}, {times:g} times the load that can be served"
                note = "nothing is left" if statistics.median(one["ideal"] for one in of_it) <= 0 else ""
                goal = Goal(f"goodput, {at}", AGAINST, GOAL, at_most=False)
                goals.append(goal.found(Spread.of([one["ratio"] for one in of_it]), note=note))
                goal = Goal(f"slowest refusal, ms, {at}", "1 ms", REFUSAL_MAX_MS)
                goals.append(goal.found(Spread.of([one["refusal_max_ms"] for one in of_it])))
        board.check_count()
    medians = {
        name: {measure: Spread.of([one[measure] for one in of_it]).rounded() for measure in of_it[0]}
        for name, of_it in samples.items()
    }
    return {"goals": goals, "medians": medians, "samples": samples}


def ideal(offered: float, *, accepted_s: float, refused_s: float, available: float) -> float:
    """How many requests a second can be served at most while the others are refused; below 0 where none can.

    Args:
        offered: requests a second.
        accepted_s: CPU of a request that is served.
        refused_s: CPU of a refusal.
        available: CPU in a second.
    """
    if accepted_s <= refused_s:  # nothing is saved by a refusal
        return min(offered, available / accepted_s)
    return min(offered, (available - offered * refused_s) / (accepted_s - refused_s))


def _capacity(server: Server, call: Call, board: Board, number: int) -> tuple[float, float]:
    """Requests a second that are served, with a queue that is full, and the server's CPU for each in us."""
    requests = call.requests_of(board, number)
    with Load(server.port, WAITING) as load:
        before_s = server.cpu_s()
        taken = load.run(requests, status=call.status)
        return taken.per_s, (server.cpu_s() - before_s) / number * 1e6


def _refused_us(server: Server, call: Call, board: Board, number: int, connections: int) -> float:
    """The server's CPU for each refusal, in microseconds."""
    requests = [call.ask(board) for _ in range(max(number, 2 * connections))]
    with Load(server.port, connections) as load:
        before_s = server.cpu_s()
        load.run(iter(requests), status=REFUSED)
        return (server.cpu_s() - before_s) / len(requests) * 1e6


@contextlib.contextmanager
def _all_held(server: Server, call: Call, board: Board) -> Iterator[None]:
    """In the block requests hold all slots and all places in the queue."""
    number = SLOTS + WAITING
    with (
        connected(server.url) as holding,
        connected(server.url) as watching,
        holding.cursor() as cursor,
        Load(server.port, number) as load,
    ):
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        load.send(call.ask(board) for _ in range(number))

        def all_wait() -> bool:
            with watching.cursor() as asking:
                asking.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                return bool(asking.fetchone()[0] == SLOTS)

        if not wait_until(all_wait, timeout_s=30):
            raise LoadError(f"{SLOTS} requests were to hang on a lock, and do not")
        yield
        cursor.execute("ROLLBACK")
        if {answer.status for answer in load.wait()} != {call.status}:
            raise LoadError("a request that hung was not answered when its lock was free")
    if call.adds:
        board.added += number


def _offered(
    server: Server, call: Call, board: Board, rate: float, scale: float, connections: int
) -> dict[str, float]:
    lead = round(rate * LEAD_S * scale)
    number = lead + max(10, round(rate * SECONDS * scale))
    requests = [call.ask(board) for _ in range(number)]
    looks: list[tuple[float, float]] = []

    def look() -> None:
        looks.append((server.cpu_s(), _delayed_s(server.pid)))

    with Load(server.port, connections) as load:
        found = offer(load, requests, rate=rate, lead=lead, statuses=(call.status, REFUSED), look=look)
    if call.adds:
        board.added += found.answers[call.status]
    (cpu_s, delayed_s), (cpu_after_s, delayed_after_s) = looks
    refusals_ms = sorted(latency_s * 1000 for latency_s in found.latencies_s[REFUSED])
    return {
        "offered": rate,
        "goodput": found.in_time[call.status] / found.seconds,
        "refused": found.in_time[REFUSED] / found.seconds,
        "available": 1 - (delayed_after_s - delayed_s) / found.seconds,
        "server_cpu": (cpu_after_s - cpu_s) / found.seconds,
        "generator_cpu": found.cpu_s / found.seconds,
        "generator_late_ms": found.late_ms,
        "under_way_max": found.under_way_max,
        "refusal_p50_ms": refusals_ms[len(refusals_ms) // 2] if refusals_ms else 0.0,
        "refusal_max_ms": refusals_ms[-1] if refusals_ms else 0.0,
        "served_p99_ms": _p99_ms(found.latencies_s[call.status]),
    }


def _p99_ms(latencies_s: list[float]) -> float:
    ordered = sorted(latencies_s)
    return ordered[int(0.99 * len(ordered))] * 1000 if ordered else 0.0


def _delayed_s(pid: int) -> float:
    """How long a process's main thread was ready to run and did not.

    https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
