"""The command that checks whether the service can run here."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from conf import Settings
from conf.names import names
from server.commands._backend import backend_of
from server.findings import lines

if TYPE_CHECKING:
    from db.doctor.findings import Finding

SUMMARY = "check whether the service can run here; each finding names its fix"

_COLOURS = {"ok": "32", "warning": "33", "error": "31;1"}
_LEVEL_WIDTH, _SUBJECT_WIDTH = 9, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON object")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Examine settings and database; changes nothing.

    Returns:
        1 where there is an error, 0 otherwise, with warnings or without.

    Raises:
        SettingsError: this database is not supported.
    """
    backend_of(settings)
    findings = []
    for finding in _findings(settings):
        findings.append(finding)
        if not arguments.json:
            print(_lines(finding), flush=True)
    errors, warnings = (sum(each.level == level for each in findings) for level in ("error", "warning"))
    if arguments.json:
        summary = {"ok": not errors, "errors": errors, "warnings": warnings}
        print(json.dumps(summary | {"findings": [asdict(each) for each in findings]}, indent=2))
    else:
        print(f"\n{_counted(errors, 'error')}, {_counted(warnings, 'warning')}")
    return 1 if errors else 0


def _findings(settings: Settings) -> Iterator[Finding]:
    from db.doctor.examine import examine
    from db.doctor.findings import Plan, ok, warning

    given = [name.path for name in names().values() if settings.origin_of(name.path) != "default"]
    yield ok("settings", f"{settings.environment}; {len(given)} set, the others are defaults: see `config`")
    yield ok("database", settings.database.shown_url)
    if settings.production and settings.http.grace_s == 0:
        fix = "set http.grace_s (--grace-s 5) above the interval of the load balancer's probes"
        yield warning("shutdown", "connections are refused as soon as SIGTERM arrives", fix)
    if settings.http.hosts:
        yield ok("hosts", " ".join(settings.http.hosts))
    elif settings.production:
        fix = (
            "set http.hosts (--hosts app.example.org) to the names that clients use, or have the proxy do it"
        )
        yield warning("hosts", "any Host is served", fix)
    plan = Plan(
        processes=settings.http.processes,
        production=settings.production,
        request_timeout_s=settings.http.request_timeout_s,
    )
    yield from examine(settings.database, plan)


def _lines(finding: Finding) -> str:
    """A finding as lines that fit the terminal; in colour on a terminal."""
    label = f"{finding.level:<{_LEVEL_WIDTH}}{finding.subject:<{_SUBJECT_WIDTH}}"
    text = lines(label, finding.message, finding.fix)
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        colour = _COLOURS[finding.level]
        text = f"\x1b[{colour}m{text[:_LEVEL_WIDTH]}\x1b[0m{text[_LEVEL_WIDTH:]}"
    return text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
