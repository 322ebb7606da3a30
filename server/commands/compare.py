"""The command that compares the scopes."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from conf import Fault, Settings, SettingsError
from server.commands._backend import backend_of
from server.compare import DEFAULT_OUT

SUMMARY = "compare sessions passed explicitly with contextvars and thread-locals: what holds, what it costs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scope", action="append", metavar="NAME", help="this scope or form only; may be repeated"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="the verdicts of this scenario only, and no costs; may be repeated",
    )
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="rounds of load over the scopes (5)")
    parser.add_argument(
        "--quick", action="store_true", help="verdicts and counts alone, nothing timed: under twenty seconds"
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON, and no table")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path(DEFAULT_OUT),
        help=f"where the HTML report goes ({DEFAULT_OUT}, which a development server shows at /compare)",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the scenarios and their promises, run none"
    )
    parser.add_argument(
        "--lint",
        nargs="+",
        metavar="PATH",
        type=Path,
        help="find in these files and folders what the scenarios show to be wrong, run none",
    )


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Compare the scopes, in a database of their own: a temporary file, or a schema beside the others.

    Returns:
        0 where explicit holds or refuses in every scenario that was run, or where ``--lint`` finds nothing;
        1 otherwise; 2 for a name or a path that does not exist.

    Raises:
        SettingsError: in production, where failures must not be provoked.
        DatabaseError: the database cannot be reached, or no schema can be created in it.
    """
    from server.compare.columns import missing
    from server.compare.comparison import ALL, Order, compare
    from server.compare.report import write_report
    from server.compare.scenarios import SCENARIOS
    from server.compare.terminal import Terminal, summary

    if arguments.lint:
        return _lint(arguments.lint)
    if arguments.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name}: {scenario.title}")
            print(textwrap.fill(scenario.promise, 78, initial_indent="    ", subsequent_indent="    "))
        return 0
    absent = missing()
    columns = arguments.scope or [name for name in ALL if name not in absent]
    scenarios = arguments.scenario or list(SCENARIOS)
    for kind, names, known in (("scope", columns, ALL), ("scenario", scenarios, SCENARIOS)):
        for name in names:
            if name not in known:
                print(f"no {kind} {name!r}: choose one of {', '.join(known)}", file=sys.stderr)
                return 2
    for name in {*columns} & {*absent}:
        print(f"{name} is not installed: pip install tornado-sqlalchemy", file=sys.stderr)
        return 2
    if settings.production:
        origin = settings.origin_of("environment")
        fault = "the comparison provokes failures: run it in development or testing"
        raise SettingsError([Fault("environment", origin, fault)])
    backend_of(settings)
    order = Order(
        # In their own order, each once, whatever the order of the arguments.
        scenarios=[name for name in SCENARIOS if name in scenarios],
        columns=[name for name in ALL if name in columns],
        rounds=arguments.rounds or 5,
        quick=arguments.quick,
        measures=not arguments.scenario,
    )
    terminal = Terminal(sys.stderr if arguments.json else sys.stdout)
    result = compare(settings.database, order, terminal)
    summary(result, terminal)
    if order.measures:
        write_report(result, arguments.out)
        terminal.line()
        terminal.line(f"report: {arguments.out.resolve().as_uri()}")
        if settings.compare.mount and arguments.out == Path(DEFAULT_OUT):
            terminal.line(f"        {_address(settings)} on a server that is started in this folder")
    for name in absent if not arguments.scope else ():
        terminal.line(f"left out: {name}, which is not installed (pip install tornado-sqlalchemy)")
    if arguments.json:
        print(json.dumps(result, indent=2))
    return 0 if result["sound"] else 1


def _lint(paths: list[Path]) -> int:
    from server.compare.lint import NotPython, lint

    try:
        found = lint(paths)
    except (FileNotFoundError, NotPython) as error:
        print(error, file=sys.stderr)
        return 2
    for each in found:
        print(each)
    print(f"{len(found)} found" if found else "nothing found")
    return 1 if found else 0


def _address(settings: Settings) -> str:
    host = settings.http.address or "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{settings.http.port}/compare"


def _rounds(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds measure nothing")
    return number
