"""schemathesis against the real server: no 5xx, all as described, no nonsense taken, no sense refused.

https://schemathesis.readthedocs.io/
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from handlers.board import examples
from tests.fixtures.process import ROOT, StartServer
from tests.fuzz.board.sense import makes_sense

CONFIGURATION = Path(__file__).parent / "schemathesis.toml"

# A part of it on each database, to save time: what each field's schema names as its limits, and at random.
# Bounded by the number of cases and not by time, so that a busy machine tries the same.
SHORT = {
    "sqlite": ("--phases=coverage",),
    "postgresql": ("--phases=fuzzing,stateful", "--max-examples=5"),
}
QUICK = ("--exclude-method=HEAD", "--exclude-method=OPTIONS", "--seed=20200401")
"""What is made at random is the same in each run, so that a failure is a change's and not the day's."""

LONG = ("--max-examples=100",)
"""With other data in each run; its seed is in the output of one that fails."""


def fuzz(
    port: int, folder: Path, options: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Let schemathesis loose on a server."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIGURATION}", "run"),
            f"http://127.0.0.1:{port}/openapi.json",
            *("--checks=all", "--no-color", "--generation-database=none", "--suppress-health-check=all"),
            *options,
        ],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.fuzz.board.checks",
            "SCHEMATHESIS_TELEMETRY": "false",
            "PYTHONHASHSEED": "0",
            "COLUMNS": "120",
        },
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def attack(
    database_url: str, start_server: StartServer, folder: Path, options: Sequence[str], timeout_s: float
) -> None:
    """Fuzz a server that has something to lose; at its end it stands, and everything is back."""
    server = start_server("--log-level", "warning", url=database_url)
    assert server.request("POST", "/teams", {"name": "Store QA"}).status == 201
    tasks = [examples.NEW_TASK | {"id": examples.TASK_ID}, *[examples.NEW_TASK | {"team_id": 1}] * 50]
    assert server.request("POST", "/tasks/bulk", {"items": tasks}).status == 201

    done = fuzz(server.port, folder, options, timeout_s)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"^  ([1-9][0-9]+) generated, \1 passed$", done.stdout, re.MULTILINE), done.stdout
    assert server.request("GET", "/readyz").status == 200
    (process,) = server.request("GET", "/stats").body["processes"]
    assert [unit for unit in process["units"] if "readiness" not in unit["label"]] == []
    assert " ERROR " not in server.err


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_a_while(backend: str, database_url: str, start_server: StartServer, tmp_path: Path):
    """Every call with what its schema takes and with what it does not."""
    attack(database_url, start_server, tmp_path, (*SHORT[backend], *QUICK), timeout_s=300)


@pytest.mark.long
def test_for_minutes(database_url: str, start_server: StartServer, tmp_path: Path):
    """The same with more of it, HEAD and OPTIONS included."""
    attack(database_url, start_server, tmp_path, LONG, timeout_s=1800)


@pytest.mark.parametrize(
    ("problem", "sense"),
    [
        ({"status": 422, "detail": "a fault", "errors": [fault]}, sense)
        for fault, sense in (
            ({"pointer": "/team_id", "message": "there is no such team"}, True),
            ({"pointer": "/items/3/s3_keys/a", "message": "should not hold a NUL character"}, True),
            ({"pointer": "/bundle", "message": "should have no control characters"}, False),
            ({"pointer": "/bundle", "message": "there is no such team"}, False),
        )
    ]
    + [
        ({"status": 412, "detail": "the task has changed since"}, False),
        ({"status": 400, "detail": "query arguments are wrong: limit"}, False),
        ({"status": 422, "detail": "the body has 0 faults", "errors": []}, False),
    ],
)
def test_what_is_let_pass_is_narrow(problem: dict[str, object], sense: bool):
    """A refusal of what fits its schema is taken for right only where the data's own rules say no."""
    assert makes_sense(problem, headers={}) is sense


def test_an_integer_with_a_fraction_is_one_to_a_schema_only():
    """JSON Schema takes 3.0 for an integer; bodies here do not, and "3" or true is none to either."""
    problem = {
        "status": 422,
        "detail": "a fault",
        "errors": [{"pointer": "/items/0/change_id", "message": "should be a valid integer"}],
    }

    assert makes_sense(problem, headers={}, body={"items": [{"change_id": 3.0}]})
    for value in ("3", True, 3.5, 3):
        assert not makes_sense(problem, headers={}, body={"items": [{"change_id": value}]})
