"""``python -m server compare``, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main
from server.compare import DEFAULT_OUT
from server.compare.scenarios import SCENARIOS
from tests.fixtures.databases import RawSql

ROOT = Path(__file__).resolve().parent.parent.parent.parent
ONE = ["--scenario", "coroutine_prepare"]

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it, to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "compare", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@on_sqlite
def test_verdicts_are_printed_as_a_table_and_with_their_evidence_as_json(
    database_url: str, sql: RawSql, tmp_path: Path
):
    """JSON on the standard output, a letter a form beside it, in the forms' own order. The database
    that is set is as it was."""
    some = [
        "--scope",
        "threadlocal",
        "--scope",
        "registry-plain",
        "--scope",
        "registry",
        "--scope",
        "explicit",
    ]

    before = sql("SELECT name FROM sqlite_master ORDER BY name")

    result = compare(tmp_path, *ONE, *some, "--json", "--database-url", database_url)

    assert result.returncode == 0, result.stderr
    assert "explicit; registry; thread-local; registry, plain" in " ".join(result.stderr.split())
    assert "  @gen.coroutine prepare                        H L H H" in result.stderr
    assert "  L  lost: " in result.stderr, "the letters have their legend"
    printed = json.loads(result.stdout)
    verdicts = printed["scenarios"]["coroutine_prepare"]["verdicts"]
    assert [*verdicts] == ["explicit", "registry", "threadlocal", "registry-plain"]
    assert verdicts["registry"]["verdict"] == "lost"
    assert verdicts["registry"]["evidence"]["rows"]["in the database"] == []
    assert verdicts["registry"]["evidence"]["sessions"][0]["found"] == "one that the registry made"
    assert printed["about"]["versions"]["Tornado"]
    assert printed["about"]["database"].startswith("SQLite 3.")
    assert sql("SELECT name FROM sqlite_master ORDER BY name") == before
    assert not (tmp_path / DEFAULT_OUT).exists(), "a part of the verdicts is no report"


@pytest.mark.parametrize("backend", ["postgresql+asyncpg"], indirect=True)
def test_a_database_that_is_reached_through_an_asyncio_driver_is_compared_through_it(
    database_url: str, tmp_path: Path
):
    """The guarded thread-local holds there: its work runs in the event loop's thread."""
    result = compare(tmp_path, "--scenario", "plain_async", "--database-url", database_url)

    assert result.returncode == 0, result.stderr
    assert "through asyncpg" in result.stdout
    assert "  plain handler, async                          H H H H H H H l H H" in result.stdout


@on_sqlite
@pytest.mark.slow
def test_a_quick_comparison_prints_the_same_twice_and_times_nothing(database_url: str, tmp_path: Path):
    """No percentage, no rate, no duration; where the report is, as addresses that a terminal opens."""
    runs = [compare(tmp_path, "--quick", "--database-url", database_url) for _ in range(2)]

    first, second = (run.stdout for run in runs)
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert first == second
    assert not re.search(r"%|\bns\b|per second|\d ms|took", first)
    assert f"report: {(tmp_path / DEFAULT_OUT).as_uri()}" in first
    assert "http://127.0.0.1:8888/compare" in first
    assert (
        first.index("Pass the session")
        < first.index("explicit, plain  ")
        < first.index("What the guards add")
    )


def test_the_list_names_every_scenario_and_runs_none(capsys, elsewhere):
    assert main(["compare", "--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] != " "] == [*SCENARIOS]
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scope", "global"], "no scope 'global': choose one of explicit, contextvar"),
        (["--scenario", "nothing"], "no scenario 'nothing': choose one of plain_sync"),
        (["--rounds", "0"], "0 rounds measure nothing"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(arguments, message, capsys, elsewhere):
    assert main(["compare", *arguments]) == 2

    assert message in capsys.readouterr().err


def test_in_production_nothing_is_made_to_fail(capsys, elsewhere, monkeypatch):
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere.invalid/x")

    assert main(["compare", *ONE]) == 2

    assert "run it in development or testing" in capsys.readouterr().err
