"""One instance and two, with one replica and two: what each adds, and what one writer carries.

::

    python -m tests.bench cluster --rounds 21 --json cluster.json

A PostgreSQL server with two replicas, and instances of the service that write at it and read from one
of them, or from both. First four of five requests read a task by its id and one changes one, in all four
arrangements in turn: throughput, as a ratio to one instance with one replica in the same round, and the CPU
of each part. Then writes alone: for each, the CPU of the server that takes it and of a replica that applies
it, and its part of the log; what a model of one writer needs. All parts and the client share the processors
of one machine, so throughput shows what the parts do to each other, and CPU what they would need on machines
of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.bench.calls import CALLS, Board
from tests.bench.commit_markers import postgres_cpu_s
from tests.bench.databases import Databases, connected
from tests.bench.load import TIMEOUT_S, Load
from tests.bench.rounds import Sample, Spread, ratios
from tests.bench.service import postgresql, serving
from tests.bench.subjects import cpu_s, installed_drivers
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ServerProcess
from tests.fixtures.standby import Standby, standby_of
from tests.fixtures.waiting import wait_until

CONNECTIONS = 16
READS_PER_WRITE = 4
MIXED, WRITES = 300, 500
"""Requests of a round: short ones, and many, since what is compared shares its processors."""

_NUMBERS = {1: ("1 instance", "1 replica"), 2: ("2 instances", "2 replicas")}
ARRANGEMENTS = {
    f"{_NUMBERS[instances][0]}, {_NUMBERS[replicas][1]}": (instances, replicas)
    for instances in _NUMBERS
    for replicas in _NUMBERS
}
BASE = next(iter(ARRANGEMENTS))
WHEN = ("after a checkpoint", "then")
REPLICAS = ("first replica", "second replica")
PARTS = ("instances", "primary", *REPLICAS)


class LoadOnAll(Load):
    """Connections to several servers, as many to each. Lives as its base class does."""

    def __init__(self, ports: Sequence[int], connections: int) -> None:
        super().__init__(ports[0], connections)
        self._ports = ports

    def __enter__(self) -> Self:
        for port in itertools.islice(itertools.cycle(self._ports), self._number):
            one = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets[one.fileno()] = one
        return self


class Cluster(NamedTuple):
    """The servers, which run. Lives as long as the block of `cluster_of`."""

    primary: PostgresCluster
    replicas: Sequence[Standby]
    url: str
    board: Board
    arrangements: Mapping[str, Sequence[ServerProcess]]
    """The instances of each."""

    def cpu_s(self, instances: Sequence[ServerProcess]) -> dict[str, float]:
        """What each part has used so far."""
        return {
            "instances": sum(cpu_s(each.pid) for each in instances),
            "primary": postgres_cpu_s(self.primary),
            **{name: postgres_cpu_s(each) for name, each in zip(REPLICAS, self.replicas, strict=True)},
        }

    def catch_up(self) -> None:
        """Wait until the replicas have applied what was written: their CPU belongs to it."""
        with connected(self.url) as connection, connection.cursor() as cursor:

            def all_have() -> bool:
                cursor.execute(
                    "SELECT bool_and(replay_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication"
                )
                return bool(cursor.fetchone()[0])

            if not wait_until(all_have, timeout_s=TIMEOUT_S):
                raise RuntimeError("a replica does not catch up")

    def log_bytes(self) -> int:
        """How much has been written to the log so far."""
        with connected(self.url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
            return int(cursor.fetchone()[0])

    def checkpoint(self) -> None:
        """From here on the first change of a page has all of it in the log."""
        with connected(self.url) as connection, connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")


@contextlib.contextmanager
def cluster_of(driver: str, tasks: int) -> Iterator[Cluster]:
    """Start everything."""
    with contextlib.ExitStack() as stack:
        # As on a machine that matters, but for its disk.
        primary = stack.enter_context(postgresql(fsync="on", full_page_writes="on"))
        made = Databases(primary.url_for("postgres"))
        url = made.new(tasks)
        replicas = [stack.enter_context(standby_of(primary)) for _ in REPLICAS]
        name = url.rpartition("/")[2]

        def instance(*read_from: Standby) -> ServerProcess:
            hosts = "&".join(f"host={each.host}:{each.port}" for each in read_from)
            reader = f"postgresql+{driver}://{primary.user}:{primary.password}@/{name}?{hosts}"
            return stack.enter_context(
                serving(
                    url.replace("postgresql://", f"postgresql+{driver}://", 1),
                    READER_URL=f"{reader}&load_balance_hosts=random&sslmode=disable",
                )
            )

        one, other = instance(replicas[0]), instance(replicas[0])
        of_both, of_second = instance(*replicas), instance(replicas[1])
        instances = {(1, 1): [one], (1, 2): [of_both], (2, 1): [one, other], (2, 2): [one, of_second]}
        arrangements = {each: instances[numbers] for each, numbers in ARRANGEMENTS.items()}
        yield Cluster(primary, replicas, url, Board(url, tasks), arrangements)


def measure(*, driver: str, rounds: int, tasks: int, scale: float = 1.0) -> dict[str, Any]:
    """Measure all of it."""
    load_before = os.getloadavg()[0]
    mixed = max(2 * CONNECTIONS, round(MIXED * scale))
    writes = max(2 * CONNECTIONS, round(WRITES * scale))
    samples: dict[str, list[Sample]] = {each: [] for each in ARRANGEMENTS}
    single: dict[str, list[Sample]] = {"create": [], "patch": []}
    with cluster_of(driver, tasks) as cluster:
        for turn in range(-1, rounds):  # a first round warms up
            at, names = max(turn, 0) % len(ARRANGEMENTS), list(ARRANGEMENTS)
            for name in names[at:] + names[:at]:
                taken = _mixed(cluster, cluster.arrangements[name], mixed)
                if turn >= 0:
                    samples[name].append(taken)
                    print(f"cluster  {name}  per_s {taken['per_s']:.4g}", file=sys.stderr, flush=True)
            for name, found in single.items():
                taken = _written(cluster, name, writes)
                if turn >= 0:
                    found.append(taken)
        cluster.board.check_count()
    return {
        "driver": driver,
        "rounds": rounds,
        "processors": os.cpu_count(),
        "load_before": round(load_before, 2),
        "medians": {name: _medians(of_it) for name, of_it in samples.items()},
        "ratios": {
            name: {
                each: ratios(of_it, samples[BASE], each).rounded() for each in ("per_s", "p50_ms", "p99_ms")
            }
            for name, of_it in samples.items()
        },
        "writes": {name: _medians(of_it) for name, of_it in single.items()},
        "samples": samples,
        "write_samples": single,
    }


def _mixed(cluster: Cluster, instances: Sequence[ServerProcess], number: int) -> Sample:
    board = cluster.board
    asked = [CALLS["patch" if at % (READS_PER_WRITE + 1) == 0 else "one"].ask(board) for at in range(number)]
    with LoadOnAll([each.port for each in instances], CONNECTIONS) as load:
        before = cluster.cpu_s(instances)
        taken = load.run(iter(asked), status=200)
        cluster.catch_up()
        after = cluster.cpu_s(instances)
    used_us = {f"{part}_cpu_us": (after[part] - before[part]) / number * 1e6 for part in PARTS}
    return {
        "per_s": taken.per_s,
        "p50_ms": taken.percentile_ms(0.5),
        "p99_ms": taken.percentile_ms(0.99),
        **used_us,
    }


def _written(cluster: Cluster, name: str, number: int) -> Sample:
    """Of one kind of write: right after a checkpoint, where whole pages go into the log, and behind that."""
    found: dict[str, float] = {}
    instances, call = cluster.arrangements[BASE], CALLS[name]
    for when in WHEN:
        if when == WHEN[0]:
            cluster.checkpoint()
        with LoadOnAll([each.port for each in instances], CONNECTIONS) as load:
            before, log_before = cluster.cpu_s(instances), cluster.log_bytes()
            load.run(call.requests_of(cluster.board, number), status=call.status)
            cluster.catch_up()
            after, log_after = cluster.cpu_s(instances), cluster.log_bytes()
        found[f"log_bytes {when}"] = (log_after - log_before) / number
        found |= {f"{part}_cpu_us {when}": (after[part] - before[part]) / number * 1e6 for part in PARTS}
    return found


def _medians(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    return {each: Spread.of([one[each] for one in samples]).rounded() for each in samples[0]}


def tables(result: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = [
        f"| 4 of 5 requests read, to {BASE} | requests a second | quartiles | median latency | p99 "
        "| CPU a request, µs: instances "
        "| primary | first replica | second |",
        f"|---|{'---|' * 8}",
    ]
    for name, of_it in result["ratios"].items():
        medians = result["medians"][name]
        cells = [
            f"{of_it['per_s']['median']:.2f}",
            f"{of_it['per_s']['low']:.2f} to {of_it['per_s']['high']:.2f}",
            *(f"{of_it[each]['median']:.2f}" for each in ("p50_ms", "p99_ms")),
            *(f"{medians[f'{part}_cpu_us']['median']:.0f}" for part in PARTS),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| a write alone | CPU of the primary, µs | of each replica, µs | log, bytes "
        "| after a checkpoint, bytes "
        "| a core of the primary carries, a second | with a log of, MB/s | a replica applies, a second |",
        f"|---|{'---|' * 7}",
    ]
    for name, found in result["writes"].items():
        medians = {each: spread["median"] for each, spread in found.items()}
        primary_us, *replicas_us = (medians[f"{part}_cpu_us {WHEN[1]}"] for part in PARTS[1:])
        replica_us = sum(replicas_us) / len(REPLICAS)
        log_first, log = (medians[f"log_bytes {when}"] for when in WHEN)
        per_s = 1e6 / primary_us
        cells = [f"{primary_us:.0f}", f"{replica_us:.0f}", f"{log:,.0f}", f"{log_first:,.0f}"]
        cells += [f"{per_s:,.0f}", f"{per_s * log / 1e6:.1f}", f"{1e6 / replica_us:,.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench cluster", description=__doc__)
    parser.add_argument("--driver", choices=installed_drivers(), default="psycopg2", help="(psycopg2)")
    parser.add_argument("--rounds", type=int, default=21, help="how often each arrangement is measured (21)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the requests in each round (1)")
    parser.add_argument("--tasks", type=int, default=20_000, help="rows to begin with (20,000)")
    parser.add_argument("--json", type=Path, help="where the result goes as JSON, with every round")
    options = parser.parse_args(arguments)
    result = measure(driver=options.driver, rounds=options.rounds, tasks=options.tasks, scale=options.scale)
    print(f"{result['processors']} processors, load {result['load_before']:g} before the run\n")
    print(tables(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0
