"""Many requests of every kind, and what the server holds at each tenth of them.

::

    python -m tests.bench.soak --requests 20000             # a table, then JSON with --json FILE
    python -m tests.bench.soak --seconds 600 --json FILE    # as many as ten minutes allow
    python -m tests.bench.soak --requests 20000 --per-s 100 # slowly, beside other work

Ends with 1 where a bound is passed: memory, descriptors, sessions, or an answer of 500. SIGTERM or SIGINT
ends it early, with a result of what was sent until then.

Memory is told twice. ``memory_mib`` is what the kernel counts for the process (RSS); ``heap_mib`` is that
without the pages of files, such as libraries, which come when they are first touched. Both grow at first, and
not from leaks: caches fill up to their bound, each place of the pools gets a thread and a connection, each
thread an arena of the allocator. So growth is the slope of ``heap_mib`` over the requests, by least squares,
from a hundred samples, past a warm-up: the first tenth.

Every connection is replaced each minute (``--recycle-s``), not each half an hour as in production: what that
costs shows in a run of minutes as in one of days.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.bench.driver import Connection, percentile_ms
from tests.bench.service import new_database, postgresql, serving
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ServerProcess
from tests.fixtures.waiting import wait_until

CONNECTIONS = 8
OWN_TASKS_MAX = 20
PARTS = 10
POOL_SIZE = 10
WARM_UP_REQUESTS = 2_000
CROWD = 4 * POOL_SIZE
"""As many at once take every place of both pools, with its thread and its connection: else those come by and
by, where more requests than before happen to meet, and look like growth."""

SAMPLES = 100

RECYCLE_S = 60

GROWTH_MAX_MIB = 4.0
"""From the first tenth to the last: a heap goes up and down by as much; a leak of 1 KiB a request is seen
in four thousand requests."""

SLOPE_MAX_MIB_PER_MILLION = 1.0
SLOPE_FROM_REQUESTS = 400_000
"""In a shorter run the heap's ups and downs are more than the slope that is looked for."""

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}


class Held(NamedTuple):
    """What the server holds."""

    memory_mib: float
    heap_mib: float
    files: int
    threads: int
    sessions: int
    in_transaction: int


class Soak:
    """One run. Lives as long as it.

    Args:
        server: what is sent requests.
        cluster: where its database is.
        database: that one's name.
        per_s: how many requests at most in a second; None for as many as are answered.
    """

    def __init__(
        self, server: ServerProcess, cluster: PostgresCluster, database: str, *, per_s: float | None = None
    ) -> None:
        self._server = server
        self._process = psutil.Process(server.pid)
        self._cluster = cluster
        self._database = database
        self._latencies_s: array[float] = array("d")
        self._statuses: Counter[int] = Counter()
        self._stopped = False
        # Kept over all parts: the same requests again would not show what is held for each new id or key.
        self._chances = [random.Random(number) for number in range(CONNECTIONS)]
        self._own: list[list[str]] = [[] for _ in range(CONNECTIONS)]
        self._pause_s = CONNECTIONS / per_s if per_s else 0.0
        self.parts: list[dict[str, Any]] = []
        self.samples: list[tuple[int, float]] = []

    def stop(self) -> None:
        """End early, with what there is."""
        self._stopped = True

    async def run(self, *, requests: int | None, seconds: float | None) -> None:
        """Open what is opened once, then send requests and note each tenth, and memory at each hundredth."""
        await asyncio.gather(*[self._crowd(number) for number in range(CROWD)])
        await self._drive(WARM_UP_REQUESTS, None)
        print(f"warmed up with {WARM_UP_REQUESTS} requests", flush=True)
        sent = 0
        for _ in range(PARTS):
            self._latencies_s, self._statuses = array("d"), Counter()
            began, cpu_s = time.monotonic(), self._cpu_s()
            for _ in range(SAMPLES // PARTS):
                await self._drive(
                    None if requests is None else requests // SAMPLES,
                    None if seconds is None else seconds / SAMPLES,
                )
                self.samples.append((sent + len(self._latencies_s), heap_mib(self._process.pid)))
                if self._stopped:
                    break
            sent += len(self._latencies_s)
            self._note(time.monotonic() - began, self._cpu_s() - cpu_s)
            if self._stopped:
                break

    async def _crowd(self, number: int) -> None:
        chance, own = random.Random(-number), list[str]()
        async with Connection(self._server.port, self._latencies_s, self._statuses) as connection:
            for _ in range(WARM_UP_REQUESTS // CROWD):
                await one_request(connection, chance, own)
            for task_id in own:
                await connection.request("DELETE", f"/tasks/{task_id}")

    async def _drive(self, requests: int | None, seconds: float | None) -> None:
        before = len(self._latencies_s)
        end_at = None if seconds is None else time.monotonic() + seconds

        def enough() -> bool:
            return (
                self._stopped
                or (requests is not None and len(self._latencies_s) - before >= requests)
                or (end_at is not None and time.monotonic() >= end_at)
            )

        async def work(chance: random.Random, own: list[str]) -> None:
            async with Connection(self._server.port, self._latencies_s, self._statuses) as connection:
                while True:  # one at least, also when it is told to stop in this moment
                    turn_ends_at = time.monotonic() + chance.uniform(0, 2 * self._pause_s)
                    await one_request(connection, chance, own)
                    if enough():
                        break
                    if self._pause_s:
                        await asyncio.sleep(max(0.0, turn_ends_at - time.monotonic()))

        await asyncio.gather(*map(work, self._chances, self._own))

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def held(self) -> Held:
        """What the server holds now, at rest."""
        rows = self._cluster.connections_to(self._database)
        ours = [row for row in rows if "'onfinish" in row]
        with self._process.oneshot():
            return Held(
                round(self._process.memory_info().rss / 2**20, 2),
                heap_mib(self._process.pid),
                self._process.num_fds(),
                self._process.num_threads(),
                len(ours),
                sum("in transaction" in row for row in ours),
            )

    def _note(self, took_s: float, cpu_s: float) -> None:
        number = len(self._latencies_s)
        part = {
            "requests": number,
            "per_s": round(number / took_s, 1),
            "cpu_us": round(cpu_s / number * 1e6, 1),
            "p50_ms": percentile_ms(self._latencies_s, 0.5),
            "p99_ms": percentile_ms(self._latencies_s, 0.99),
            "max_ms": percentile_ms(self._latencies_s, 1.0),
            **self.held()._asdict(),
            "statuses": dict(sorted(self._statuses.items())),
        }
        self.parts.append(part)
        shown = {name: value for name, value in part.items() if name != "statuses"}
        print("  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)


async def one_request(connection: Connection, chance: random.Random, own: list[str]) -> None:
    """A request of some kind; four in a hundred are refused."""
    draw = chance.random()
    some = chance.choice(own) if own else "0" * 32
    if draw < 0.35:
        await connection.request("GET", f"/tasks/{some}")
    elif draw < 0.50:
        await connection.request("GET", "/tasks?limit=20")
    elif draw < 0.70 or not own:
        task_id = uuid.UUID(int=chance.getrandbits(128)).hex
        key = task_id if chance.random() < 0.2 else None
        await connection.request("POST", "/tasks", {**TASK, "id": task_id}, key)
        own.append(task_id)
        if len(own) > OWN_TASKS_MAX:
            await connection.request("DELETE", f"/tasks/{own.pop(0)}")
    elif draw < 0.85:
        await connection.request("PATCH", f"/tasks/{some}", {"change_id": chance.randrange(10**6)})
    elif draw < 0.88:
        items = [TASK | {"bundle": "bulk"}] * 5
        created = json.loads(await connection.request("POST", "/tasks/bulk", {"items": items}))
        for task_id in created["ids"]:
            await connection.request("DELETE", f"/tasks/{task_id}")
    elif draw < 0.92:
        await connection.request("POST", f"/tasks/{some}/transfer", {"from_team_id": None, "to_team_id": 99})
    elif draw < 0.96:
        await connection.request("GET", f"/tasks/{some}/transfers")
    elif draw < 0.97:
        await connection.request("GET", "/readyz")
    elif draw < 0.98:
        await connection.request("GET", f"/invented/{chance.getrandbits(64)}")
    else:
        await connection.request("POST", "/tasks", {"bundle": ""})


def faults_of(parts: Sequence[dict[str, Any]], *, pool_size: int) -> list[str]:
    """What passed its bound; nothing where all is well."""
    first, last = parts[0], parts[-1]
    found = []
    if (growth_mib := last["memory_mib"] - first["memory_mib"]) > GROWTH_MAX_MIB:
        found.append(f"memory grew by {growth_mib:.1f} MiB")
    # What the first tenth had not yet opened may come later: a connection and a thread for each place.
    if last["files"] > first["files"] + 2 * pool_size - first["sessions"]:
        found.append(f"{last['files']} descriptors, {first['files']} after the first tenth")
    if last["sessions"] > 2 * pool_size:
        found.append(f"{last['sessions']} sessions at PostgreSQL")
    if any(part["in_transaction"] for part in parts):
        found.append("a session in a transaction, with no request under way")
    wrong = {status for part in parts for status in part["statuses"] if status >= 500}
    if wrong:
        found.append(f"answers of {sorted(wrong)}")
    return found


def growth_mib_per_million(samples: Sequence[tuple[int, float]], *, past: int) -> float | None:
    """The slope of memory over requests, by least squares, past so many requests; None of a single sample."""
    points = [(at / 1e6, mib) for at, mib in samples if at > past]
    if len(points) < 2:
        return None
    return round(statistics.linear_regression(*zip(*points, strict=True)).slope, 2)


def heap_mib(pid: int) -> float:
    """The memory of a process that is no file's: its heaps and stacks (proc(5), RssAnon)."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))
    return round(int(kib) / 1024, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, help="how many in all, beside the warm-up")
    parser.add_argument("--seconds", type=float, help="or for how long")
    parser.add_argument("--per-s", type=float, help="at most so many in a second, or so; default: all it can")
    parser.add_argument(
        "--recycle-s",
        type=int,
        default=RECYCLE_S,
        help="age at which connections are replaced (database.pool_recycle_s); default: %(default)s",
    )
    parser.add_argument("--json", type=Path, help="where the result goes as JSON")
    options = parser.parse_args(arguments)
    if options.requests is None and options.seconds is None:
        options.requests = 20_000
    pool_size = POOL_SIZE
    with postgresql() as cluster:
        url = new_database(cluster)
        database = url.rpartition("/")[2]
        recycled = {"POOL_RECYCLE_S": str(options.recycle_s)}
        with serving(url, POOL_SIZE=str(pool_size), MALLOC_ARENA_MAX="2", **recycled) as server:
            soak = Soak(server, cluster, database, per_s=options.per_s)
            with ended_by_signals(soak):
                asyncio.run(soak.run(requests=options.requests, seconds=options.seconds))
            server.send_signal(signal.SIGTERM)
            exit_status = server.wait()
            faults = faults_of(soak.parts, pool_size=pool_size)
            if exit_status:
                faults.append(f"the server ended with {exit_status}")
            if not wait_until(lambda: not cluster.connections_to(database)):
                faults.append("sessions were left behind")
    requests = sum(part["requests"] for part in soak.parts)
    warm_up = requests // PARTS
    slope = growth_mib_per_million(soak.samples, past=warm_up)
    if slope is not None and requests >= SLOPE_FROM_REQUESTS and slope > SLOPE_MAX_MIB_PER_MILLION:
        faults.append(f"memory grew by {slope} MiB per million requests")
    result = {
        "requests": requests,
        "warm_up_requests": warm_up,
        "growth_mib_per_million": slope,
        "growth_mib_per_million_second_half": growth_mib_per_million(soak.samples, past=requests // 2),
        "faults": faults,
        "parts": soak.parts,
        "samples": soak.samples,
    }
    print({name: value for name, value in result.items() if name not in ("parts", "samples")})
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if faults else 0


@contextlib.contextmanager
def ended_by_signals(soak: Soak) -> Iterator[None]:
    """SIGTERM and SIGINT end the run early."""
    handlers = {
        number: signal.signal(number, lambda *_: soak.stop()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
