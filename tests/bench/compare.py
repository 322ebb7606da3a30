"""Single calls over HTTP: the service, what is written by hand, and what others use.

::

    python -m tests.bench calls --rounds 9 --json calls.json
    python -m tests.bench calls --calls one,create --peers fastapi,floor

Every subject has a process of its own, on a database of its own with the same rows, and ten connections to
it. Each round measures all of them one after the other, with the same requests over sixteen connections that
are kept alive; ratios are taken within a round. CPU is that of the subject's processes, without the client's
and PostgreSQL's. Before anything is timed, every subject has to answer right, mistakes included; a wrong
status or a connection that is cut ends the run, and so does a database that has other rows afterwards than
were acknowledged.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.calls import CALLS, Board, Call, WrongAnswer
from tests.bench.databases import Fresh
from tests.bench.goal import Goal
from tests.bench.load import Load, LoadError
from tests.bench.rounds import Sample, Samples, Spread, ratios, sample, turned
from tests.bench.subjects import PEERS, Server, Subject, started

CONNECTIONS = 16
WARM_UP = 0.3
"""How many of a round's requests go before the first round, by share."""


def measure(
    databases: Fresh,
    subjects: Sequence[Subject],
    calls: Sequence[Call],
    *,
    rounds: int,
    environments: Path,
    tasks: int,
    scale: float = 1.0,
    connections: int = CONNECTIONS,
) -> Samples:
    """Measure all subjects at all calls.

    Args:
        tasks: how many each database has at the beginning.
        scale: of a call's usual number of requests.

    Raises:
        RuntimeError: a subject did not answer as it has to. Nothing was found out.
    """
    samples: Samples = {
        call.name: {subject.name: [] for subject in subjects if call.name not in subject.lacks}
        for call in calls
    }
    with contextlib.ExitStack() as stack:
        servers = []
        boards: dict[str, Board] = {}
        for subject in subjects:
            url = databases.new(tasks)
            boards[subject.name] = Board(url, tasks, refusals=subject.refuses)
            servers.append(stack.enter_context(started(subject, url, environments=environments)))
        for call in calls:
            number = max(1, round(call.requests * scale))
            having = [server for server in servers if call.name not in server.subject.lacks]
            for server in having:
                board = boards[server.subject.name]
                with _named(server, call):
                    with Load(server.port, 1) as load:
                        call.check(load, board)
                    _drive(server, call, board, max(1, round(number * WARM_UP)), connections)
            for turn in range(rounds):
                for server in turned(having, turn):
                    with _named(server, call):
                        found = _drive(server, call, boards[server.subject.name], number, connections)
                    samples[call.name][server.subject.name].append(found)
                    _tell(call, server, found)
        for server in servers:
            with _named(server, calls[-1]):
                boards[server.subject.name].check_count()
    return samples


def medians(samples: Samples) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """By call, subject and measure: the median of all rounds, and the quartiles."""
    return {
        call: {
            subject: {measure: Spread.of([one[measure] for one in of_it]).rounded() for measure in of_it[0]}
            for subject, of_it in by_subject.items()
        }
        for call, by_subject in samples.items()
    }


def fastest_of(samples: Samples, ours: Sequence[str]) -> str:
    """Which of the service's drivers takes least CPU, at the first of the calls."""
    by_subject = next(iter(samples.values()))
    return min(ours, key=lambda name: Spread.of([one["cpu_us"] for one in by_subject[name]]).median)


def goals(samples: Samples, default: str, fastest: str) -> list[dict[str, Any]]:
    """What was to be reached against the peers that were there.

    Args:
        default: the service's subject as it is installed.
        fastest: that of the driver that takes least CPU.
    """
    found = []
    for own, call, peer, measure, goal in GOALS:
        by_subject, name = samples.get(call, {}), default if own == DEFAULT else fastest
        if name in by_subject and peer in by_subject:
            bare = by_subject.get(f"bare {name.split()[-1]}")
            found.append(
                goal.found(
                    ratios(by_subject[name], by_subject[peer], measure),
                    bare=None if bare is None else ratios(bare, by_subject[peer], measure),
                )
            )
    return found


DEFAULT, FASTEST = "psycopg2, as installed", "the fastest driver"
"""Whose goal it is."""


def _goals() -> list[tuple[str, str, str, str, Goal]]:
    label = {name: peer.label for name, peer in PEERS.items()}
    calls = ("one", "list", "create", "patch")

    def cpu(own: str, call: str, peer: str, bound: float) -> tuple[str, str, str, str, Goal]:
        goal = Goal(f"CPU per request, {CALLS[call].label}, {own}", label[peer], bound)
        return own, call, peer, "cpu_us", goal

    made = [
        cpu(own, call, "fastapi", bound)
        for own, bounds in ((DEFAULT, (0.70, 0.60, 0.75, 0.80)), (FASTEST, (0.62, 0.55, 0.68, 0.75)))
        for call, bound in zip(calls, bounds, strict=True)
    ]
    others = [name for name, peer in PEERS.items() if peer.has_orm and name != "fastapi"]
    made += [cpu(DEFAULT, call, peer, 0.65) for peer in others for call in calls]
    made += [cpu(FASTEST, "one", "floor", 1.8), cpu(FASTEST, "create", "floor", 2.0)]
    slowest = Goal(f"p99 of {CALLS['one'].label}, {DEFAULT}", label["fastapi"], 0.5)
    return [*made, (DEFAULT, "one", "fastapi", "p99_ms", slowest)]


GOALS = _goals()


def _drive(server: Server, call: Call, board: Board, number: int, connections: int) -> Sample:
    requests = call.requests_of(board, number)
    with Load(server.port, call.connections or connections) as load:
        before_s = server.cpu_s()
        taken = load.run(requests, status=call.status)
        used_s = server.cpu_s() - before_s
    if call.name == "export" and taken.lines != number * board.tasks:
        raise WrongAnswer(f"{number} exports of {board.tasks} tasks have {taken.lines} lines")
    return sample(server, taken, used_s, rows=board.tasks if call.name == "export" else call.rows)


@contextlib.contextmanager
def _named(server: Server, call: Call) -> Iterator[None]:
    try:
        yield
    except (WrongAnswer, LoadError, OSError) as error:
        raise RuntimeError(f"{server.subject.label}, {call.label}: {error}") from error


def _tell(call: Call, server: Server, found: Sample) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
    print(f"{call.name:8} {server.subject.name:20} {figures}", file=sys.stderr, flush=True)
