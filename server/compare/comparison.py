"""A whole comparison: the steps, their order, and the result."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from conf import DatabaseSettings
from db import make_engine, make_url
from db.engines.engine import blocking
from db.scope import SCOPES
from server.compare.code import code
from server.compare.columns import COLUMNS
from server.compare.commit_time import Amount, commit_times
from server.compare.cost import START_S, load, send_lookups
from server.compare.findings import conclusion, recommendation
from server.compare.load import CLIENTS, Turn
from server.compare.processes import Worker
from server.compare.scenarios import SCENARIOS
from server.compare.scratch import scratch_database
from server.compare.terminal import Terminal
from server.compare.verdict_table import verdicts

SOUND = ("holds", "refused")

# Five rounds are 10,000 requests to each server; of them 1 % in addition end badly.
TURN = Turn(reads=1_600, writes=400, bad=20)
AT_ONCE = 3
"""Scenarios that run at a time, each in its own process and database: they wait more than they work."""

AMOUNT = Amount(requests=20, kills=3)
QUICK_AMOUNT = Amount(requests=2, kills=0, leaves=False)


@dataclass(frozen=True)
class Order:
    """What is to be compared."""

    scenarios: Sequence[str]
    columns: Sequence[str]
    rounds: int
    quick: bool
    measures: bool
    """Whether costs and commit times are measured too, not verdicts alone."""

    @property
    def scopes(self) -> list[str]:
        """The guarded columns: between them there is a cost to be compared."""
        return [name for name in self.columns if name in SCOPES]


def compare(settings: DatabaseSettings, order: Order, terminal: Terminal) -> dict[str, Any]:
    """Run the comparison on scratch databases beside the one that is set.

    Returns:
        All of it, fit for JSON.

    Raises:
        DatabaseError: no scratch database can be made.
    """
    began = time.monotonic()
    result: dict[str, Any] = {"about": {"made_at": datetime.now(UTC).isoformat(timespec="seconds")}}
    with contextlib.ExitStack() as stack:
        databases = [stack.enter_context(scratch_database(settings)) for _ in range(AT_ONCE)]
        result["about"] |= {
            "database": database_name(databases[0]),
            "versions": versions(),
            "machine": machine(),
            "quick": order.quick,
            "rounds": order.rounds,
            "clients": CLIENTS,
        }
        amounts = f"{len(order.scenarios)} scenarios under {len(order.columns)} forms"
        terminal.line(f"{amounts}, on {result['about']['database']}")
        result["scenarios"] = _verdicts(databases, order, terminal)
    if order.measures:
        _measure(settings, order, terminal, result)
        result["code"] = {scope: code(scope) for scope in order.scopes}
    terminal.done()
    result["recommendation"] = recommendation(result)
    result["conclusion"] = conclusion(result)
    result["sound"] = explicit_is_sound(result)
    result["about"]["took_s"] = round(time.monotonic() - began, 1)
    return result


def explicit_is_sound(result: dict[str, Any]) -> bool:
    """Whether explicit holds or refuses wherever it was run."""
    found = [scenario["verdicts"].get("explicit") for scenario in result["scenarios"].values()]
    return all(verdict["verdict"] in SOUND for verdict in found if verdict is not None)


def _verdicts(databases: Sequence[DatabaseSettings], order: Order, terminal: Terminal) -> dict[str, Any]:
    found: dict[str, Any] = {}
    steps = [(name, column) for name in order.scenarios for column in order.columns]
    for (name, column), result in verdicts(databases, steps):
        scenario = SCENARIOS[name]
        if name not in found:
            terminal.doing(f"{len(found) + 1} of {len(order.scenarios)}: {scenario.title}")
            found[name] = {
                "title": scenario.title,
                "group": scenario.group,
                "promise": scenario.promise,
                "source": scenario.source,
                "verdicts": {},
            }
        found[name]["verdicts"][column] = result
    return found


def _measure(settings: DatabaseSettings, order: Order, terminal: Terminal, result: dict[str, Any]) -> None:
    if (
        not order.quick
    ):  # in so short a time nothing can be told from noise: a quick one counts, and times nothing
        terminal.doing("finding the session")
        with Worker(send_lookups) as worker:
            found = worker.receive(START_S)
        result["lookups"] = {scope: found[scope] for scope in order.scopes}
        result["load"] = load(settings, order.scopes, order.rounds, TURN, terminal.doing)
    amount = QUICK_AMOUNT if order.quick else AMOUNT
    result["commit"] = commit_times(settings, amount, terminal.doing)


def versions() -> dict[str, str]:
    """The versions of what was compared."""
    packages = {"Tornado": "tornado", "SQLAlchemy": "SQLAlchemy", "psycopg2": "psycopg2-binary"}
    found = {"Python": platform.python_version()}
    for name, package in packages.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def database_name(settings: DatabaseSettings) -> str:
    """The database's kind and version, and the asyncio driver through which the guarded forms have it."""
    plain = blocking(settings)
    through = "" if plain is settings else f" through {make_url(settings).get_driver_name()}"
    engine = make_engine(plain, "migration")
    try:
        with engine.connect() as connection:
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
            return f"{names.get(connection.dialect.name, connection.dialect.name)} {version}{through}"
    finally:
        engine.dispose()


def machine() -> dict[str, Any]:
    """The machine on which it was run."""
    load = os.getloadavg()[0]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_at_start": round(load, 2),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


ALL = tuple(COLUMNS)
"""Every column, in its order."""
