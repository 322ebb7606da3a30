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
    parser.add_argument("--scope", action="append", metavar="NAME", help="this scope only; may be repeated")
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="the verdicts of this scenario only, and no costs; may be repeated",
    )
    parser.add_argument(
        "--rounds", type=_rounds, metavar="N", help="rounds of load over the scopes (5, with --quick 2)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer requests: under twenty seconds")
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


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Compare the scopes, in a database of their own: a temporary file, or a schema beside the others.

    Returns:
        0 where explicit holds or refuses in every scenario that was run, 1 otherwise; 2 for a name that
        does not exist.

    Raises:
        SettingsError: in production, where failures must not be provoked.
        DatabaseError: the database cannot be reached, or no schema can be created in it.
    """
    from server.compare.comparison import ALL_SCOPES, Order, compare
    from server.compare.report import write_report
    from server.compare.scenarios import SCENARIOS
    from server.compare.terminal import Terminal, summary

    if arguments.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name}: {scenario.title}")
            print(textwrap.fill(scenario.promise, 78, initial_indent="    ", subsequent_indent="    "))
        return 0
    scopes = arguments.scope or list(ALL_SCOPES)
    scenarios = arguments.scenario or list(SCENARIOS)
    for kind, names, known in (("scope", scopes, ALL_SCOPES), ("scenario", scenarios, SCENARIOS)):
        for name in names:
            if name not in known:
                print(f"no {kind} {name!r}: choose one of {', '.join(known)}", file=sys.stderr)
                return 2
    if settings.production:
        origin = settings.origin_of("environment")
        fault = "the comparison provokes failures: run it in development or testing"
        raise SettingsError([Fault("environment", origin, fault)])
    backend_of(settings)
    order = Order(
        # In their own order, each once, whatever the order of the arguments.
        scenarios=[name for name in SCENARIOS if name in scenarios],
        scopes=[name for name in ALL_SCOPES if name in scopes],
        rounds=arguments.rounds or (2 if arguments.quick else 5),
        quick=arguments.quick,
        measures=not arguments.scenario,
    )
    terminal = Terminal(sys.stderr if arguments.json else sys.stdout)
    result = compare(settings.database, order, terminal)
    summary(result, terminal)
    if order.measures:
        write_report(result, arguments.out)
        terminal.line(f"report: {arguments.out}")
    if arguments.json:
        print(json.dumps(result, indent=2))
    return 0 if result["sound"] else 1


def _rounds(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds measure nothing")
    return number
