"""Measurements, each by its name: ``python -m tests.bench NAME``.

::

    python -m tests.bench goals --json result.json --markdown docs/performance.md --plot docs/performance.svg
    python -m tests.bench goals --rounds 5 --scale 0.5   # in half of the time
    python -m tests.bench calls --calls one,create --peers fastapi,floor --rounds 5
    python -m tests.bench goals --from result.json       # the table once more, without measuring

They run on a PostgreSQL of their own, or on the server of ``--database-url``, where they make databases and
drop them again. docs/performance.md says what each of them does, and why it is fair.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import (
    bodies,
    clients,
    cluster,
    commit_markers,
    compare,
    goodput,
    locks,
    machinery,
    many,
    plot,
    processes,
    profile,
    report,
    round_trips,
    soak,
    sqlite,
    start,
)
from tests.bench.calls import CALLS
from tests.bench.databases import Databases, databases
from tests.bench.environments import default_folder
from tests.bench.machine import machine
from tests.bench.progress import Progress
from tests.bench.subjects import PEERS, Subject, bare, installed_drivers, ours

MEASURED: dict[str, str] = {
    "calls": "single calls over HTTP: the service, what is written by hand, and what others use",
    "machinery": "unit of work, held response, slot and call, against a bare Tornado handler",
    "locks": "reads while writes hang on a row lock",
    "many": "a large bulk against asyncpg's executemany, a large export against COPY TO",
    "processes": "two processes against one",
    "clients": "from one client's connection to 1,024, against sixteen",
    "trips": "round trips to the database on the wire",
    "goodput": "requests at 1.5 and 3 times the rate that can be served, and what becomes of them",
    "sqlite": "one row and a creation on SQLite: the service, and what others use",
    "start": "from the start of a process to its first answer, and its memory then, on SQLite",
    "goals": "all of these, and the table of what is to be reached",
}
BARE = "bare"
"""Tornado, SQLAlchemy and each of the drivers, with everything of ours taken out."""

OTHERS: dict[str, Callable[[Sequence[str]], int]] = {
    "cluster": cluster.main,
    "soak": soak.main,
    "commit-markers": commit_markers.main,
    "bodies": bodies.main,
    "profile": profile.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in OTHERS:
        return OTHERS[arguments[0]](arguments[1:])
    options = _options(arguments)
    if options.result:
        result = json.loads(options.result.read_text())
    else:
        with databases(options.database_url) as made:
            try:
                result = measure(options, made)
            except RuntimeError as error:
                print(f"bench: {error}", file=sys.stderr)
                return 1
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if options.plot and "calls" in result:
        plot.write(result, options.plot)
    if options.markdown:
        beside = None
        if options.plot and "calls" in result:
            beside = os.path.relpath(options.plot, options.markdown.parent)
        report.write(result, options.markdown, plot=beside)
    print(report.summary(result))
    if options.name != "goals":
        print(report.tables(result))
    return 0


def measure(options: argparse.Namespace, made: Databases) -> dict[str, Any]:
    """Measure what was asked for.

    Raises:
        RuntimeError: an answer is not as it has to be. Nothing was measured.
    """
    own = [ours(driver) for driver in options.drivers]
    peers = [PEERS[name] for name in options.peers if name != BARE]
    if BARE in options.peers:
        peers += [bare(driver) for driver in options.drivers]
    default = options.drivers[0]
    result: dict[str, Any] = {"machine": machine(made, peers), "rounds": options.rounds}
    common = {"rounds": options.rounds, "tasks": options.tasks, "scale": options.scale}
    others = {"peers": options.peers, "environments": options.environments}

    def driver() -> str:
        """The fastest, where that is known."""
        return str(result["calls"]["own"]).split()[-1] if "calls" in result else default

    measured: dict[str, Callable[[], dict[str, Any]]] = {
        "calls": lambda: calls(made, own, peers, options, common),
        "machinery": lambda: machinery.measure(
            made,
            driver=driver(),
            calls=[name for name in machinery.CALLED if name in options.calls],
            **common,
        ),
        "locks": lambda: locks.measure(made, driver=driver(), **common),
        "many": lambda: many.measure(
            made,
            driver=driver(),
            rounds=max(1, options.rounds // 2),
            environments=options.environments if set(options.peers) - {BARE} else None,
            bulk=max(1, round(many.BULK * options.scale)),
            export=max(1, round(many.EXPORT * options.scale)),
        ),
        "processes": lambda: processes.measure(
            made, driver=driver(), rounds=options.rounds, scale=options.scale
        ),
        "clients": lambda: clients.measure(
            made, driver=default, **common | others | {"rounds": max(1, (options.rounds + 1) // 2)}
        ),
        "trips": lambda: round_trips.measure(made, driver=default),
        "goodput": lambda: goodput.measure(
            made, driver=default, calls=options.calls, **common | {"rounds": max(1, options.rounds // 3)}
        ),
        "sqlite": lambda: sqlite.measure(calls=options.calls, **common | others),
        "start": lambda: start.measure(
            rounds=options.rounds,
            environments=options.environments if "fastapi" in options.peers else None,
            scale=options.scale,
        ),
    }
    names = [*measured] if options.name == "goals" else [options.name]
    progress = Progress(names, share=options.rounds / 9 * options.scale)
    for name in names:
        progress.begins(name)
        result[name] = measured[name]()
    return result


def calls(
    made: Databases,
    own: list[Subject],
    peers: list[Subject],
    options: argparse.Namespace,
    common: dict[str, Any],
) -> dict[str, Any]:
    """The comparison of single calls."""
    subjects = [*own, *peers]
    samples = compare.measure(
        made, subjects, [CALLS[name] for name in options.calls], environments=options.environments, **common
    )
    fastest = compare.fastest_of(samples, [subject.name for subject in own])
    return {
        "own": fastest,
        "labels": {subject.name: subject.label for subject in subjects},
        "by_hand": [subject.name for subject in subjects if not subject.has_orm],
        "goals": compare.goals(samples, own[0].name, fastest),
        "medians": compare.medians(samples),
        "samples": samples,
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {name:10} {about}" for name, about in MEASURED.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"{listed}\n  {', '.join(OTHERS)}: each with options of its own",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=MEASURED, metavar="NAME", help=", ".join([*MEASURED, *OTHERS]))
    parser.add_argument("--database-url", help="a PostgreSQL server; without it one is started for the run")
    parser.add_argument("--rounds", type=int, default=9, help="how often each subject is measured (9)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the requests in each round (1)")
    parser.add_argument("--tasks", type=int, default=100_000, help="rows to begin with (100,000)")
    _add_list(parser, "--calls", CALLS, "which calls")
    _add_list(parser, "--peers", [*PEERS, BARE], "which peers, or none")
    _add_list(
        parser,
        "--drivers",
        installed_drivers(),
        "which of the service's drivers; what measures one takes the first",
    )
    parser.add_argument(
        "--environments", type=Path, default=default_folder(), help="where the peers' environments are kept"
    )
    parser.add_argument("--json", type=Path, help="where the result goes as JSON, with every round")
    parser.add_argument("--markdown", type=Path, help="where the tables go: between its marks, if any")
    parser.add_argument("--plot", type=Path, help="where the plot of the calls goes, as SVG")
    parser.add_argument("--from", type=Path, dest="result", help="a result's JSON; nothing is measured")
    return parser.parse_args(arguments)


def _add_list(parser: argparse.ArgumentParser, flag: str, known: Any, about: str) -> None:
    def read(text: str) -> list[str]:
        names = [] if text == "none" else text.split(",")
        unknown = set(names) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )
        return [name for name in known if name in names]

    parser.add_argument(flag, type=read, default=list(known), help=f"{about} ({','.join(known)})")


if __name__ == "__main__":
    sys.exit(main())
