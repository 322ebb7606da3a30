"""``python -m server compare``, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main
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


def test_a_scenario_is_told_as_a_table_and_nothing_of_anybodys_is_touched(
    database_url: str, sql: RawSql, tmp_path: Path
):
    """The verdicts are there; the database that is set has neither rows nor a schema of ours."""
    result = compare(tmp_path, *ONE, "--database-url", database_url)

    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "explicit     contextvar   registry     threadlocal" in result.stdout
    assert "@gen.coroutine prepare                        holds        refused      lost         holds" in (
        result.stdout
    )
    assert sql("SELECT count(*) AS n FROM tasks") == [{"n": 0}]
    if database_url.startswith("postgresql"):
        schemas = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'onfinish_compare%'"
        assert sql(schemas) == []


@on_sqlite
def test_json_holds_verdicts_with_their_evidence(database_url: str, tmp_path: Path):
    """Machine-readable on the standard output; the table goes elsewhere."""
    result = compare(
        tmp_path, *ONE, "--scope", "registry", "--scope", "explicit", "--json", "--database-url", database_url
    )

    told = json.loads(result.stdout)
    verdicts = told["scenarios"]["coroutine_prepare"]["verdicts"]
    assert result.returncode == 0
    assert [*verdicts] == ["explicit", "registry"]
    assert verdicts["registry"]["verdict"] == "lost"
    assert verdicts["registry"]["evidence"]["rows"]["in the database"] == []
    assert verdicts["registry"]["evidence"]["sessions"][0]["found"] == "one that the registry made"
    assert told["about"]["versions"]["Tornado"]
    assert told["about"]["database"].startswith("SQLite 3.")


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
def test_what_does_not_exist_is_told_with_what_does(arguments, message, capsys, elsewhere):
    assert main(["compare", *arguments]) == 2

    assert message in capsys.readouterr().err


def test_in_production_nothing_is_made_to_fail(capsys, elsewhere, monkeypatch):
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere.invalid/x")

    assert main(["compare", *ONE]) == 2

    assert "run it in development or testing" in capsys.readouterr().err
