"""What a measurement was made on: the machine, and what ran on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.databases import Databases
from tests.bench.environments import versions
from tests.bench.subjects import Subject
from tests.fixtures.process import ROOT

_PACKAGES = ("tornado", "SQLAlchemy", "psycopg2-binary", "asyncpg", "psycopg", "greenlet", "uvloop")


def machine(databases: Databases, subjects: Sequence[Subject] = ()) -> dict[str, Any]:
    """The machine, and the versions of everything that is compared."""
    ours = {}
    for package in _PACKAGES:
        try:
            ours[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": _commit(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": databases.version,
        "packages": ours,
        "peers": {subject.name: versions(subject.environment) for subject in subjects if subject.environment},
    }


def sentence(found: dict[str, Any]) -> str:
    """The same in a line, without the peers'."""
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    commit = f"Commit {found['commit']}; " if found.get("commit") else ""
    machine = f"{commit}{found['processors']} processors ({found['processor']}), {found['system']}"
    load = f"load {found['load_before']:g} before the run"
    return f"{machine}, {load}; Python {found['python']}, PostgreSQL {found['postgresql']}, {packages}."


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """That of this clone, or nothing where it is none."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
