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

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.calls import CALLS, Board, Call, WrongAnswer
from tests.bench.databases import Databases
from tests.bench.load import Load, LoadError
from tests.bench.rounds import Samples, sample, turned
from tests.bench.subjects import Server, Subject, started

CONNECTIONS = 16
WARM_UP = 0.3
"""How many of a round's requests go before the first round, by share."""


def measure(
    databases: Databases,
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
    samples: Samples = {call.name: {subject.name: [] for subject in subjects} for call in calls}
    with contextlib.ExitStack() as stack:
        servers = []
        boards: dict[str, Board] = {}
        for subject in subjects:
            url = databases.new(tasks)
            boards[subject.name] = Board(url, tasks)
            servers.append(stack.enter_context(started(subject, url, environments=environments)))
        for call in calls:
            number = max(1, round(call.requests * scale))
            for server in servers:
                board = boards[server.subject.name]
                with _named(server, call):
                    with Load(server.port, 1) as load:
                        call.check(load, board)
                    _drive(server, call, board, max(1, round(number * WARM_UP)), connections)
            for turn in range(rounds):
                for server in turned(servers, turn):
                    with _named(server, call):
                        found = _drive(server, call, boards[server.subject.name], number, connections)
                    samples[call.name][server.subject.name].append(found)
                    _tell(call, server, found)
        for server in servers:
            with _named(server, calls[-1]):
                boards[server.subject.name].check_count()
    return samples


def _drive(server: Server, call: Call, board: Board, number: int, connections: int) -> Any:
    requests = call.requests_of(board, number)
    with Load(server.port, call.connections or connections) as load:
        before_s = server.cpu_s()
        taken = load.run(requests, status=call.status)
        used_s = server.cpu_s() - before_s
    return sample(server, taken, used_s, rows=board.tasks if call.name == "export" else call.rows)


@contextlib.contextmanager
def _named(server: Server, call: Call) -> Any:
    try:
        yield
    except (WrongAnswer, LoadError, OSError) as error:
        raise RuntimeError(f"{server.subject.label}, {call.label}: {error}") from error


def _tell(call: Call, server: Server, found: Any) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
    print(f"{call.name:8} {server.subject.name:20} {figures}", file=sys.stderr, flush=True)
