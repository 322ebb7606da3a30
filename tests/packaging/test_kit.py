"""A folder that only installs onfinish, that of docs/testing.md, tests handlers and model functions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.postgres import PostgresCluster
from tests.packaging.conftest import ROOT, Environment

PLUGINS = ("schemathesis", "hypothesispytest", "xdist", "xdist.looponfail")
"""What else is installed here. It is of no use to that folder."""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The folder: each block of the page, in the file that its first line names."""
    page = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S)
    named = [re.fullmatch(r"# (\S+)\n(.*)", text, re.S) for _, text in blocks]
    assert [language for language, _ in blocks].count("python") == len(blocks) - 1
    folder = tmp_path / "notes"
    folder.mkdir()
    for block in named:
        assert block is not None
        (folder / block[1]).write_text(block[2])
    return folder


def run_pytest(environment: Environment, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run its tests, in which a warning is an error."""
    unused = [f"-pno:{name}" for name in PLUGINS]
    return environment.run("python", "-m", "pytest", "-W", "error", *unused, *arguments, cwd=folder)


def databases_of(cluster: PostgresCluster) -> list[str]:
    """The names of a server's databases."""
    with cluster.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database ORDER BY datname")
        return [name for (name,) in cursor.fetchall()]


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+asyncpg"])
def test_the_pages_tests_pass(
    environment: Environment, notes: Path, postgres_cluster: PostgresCluster, driver: str
):
    """On SQLite, where no server is named, and on a server, where nothing is left."""
    url = f"{driver}://"
    if driver.startswith("postgresql"):
        url = postgres_cluster.url_for("postgres").replace("postgresql", driver, 1)
    chosen = [] if driver == "sqlite" else ["--database-url", url]
    before = databases_of(postgres_cluster)

    done = run_pytest(environment, notes, *chosen)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert databases_of(postgres_cluster) == before


@pytest.mark.slow
def test_the_pages_case_runs_with_unittest(environment: Environment, notes: Path):
    """And nothing of the kit imports pytest then."""
    program = "import sys, unittest; unittest.main('test_case', exit=False); print('pytest' in sys.modules)"

    done = environment.run("python", "-W", "error", "-c", program, cwd=notes)

    assert done.stdout == "False\n", done.stderr
    assert "Ran 1 test" in done.stderr
    assert done.stderr.endswith("OK\n")


@pytest.mark.slow
def test_the_folder_passes_mypy_strict(environment: Environment, notes: Path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", environment.python, "."],
        cwd=notes,
        env=os.environ | {"MYPYPATH": ""},
        capture_output=True,
        text=True,
        timeout=180,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_without_tables_of_its_own_a_folder_reads_what_to_do(environment: Environment, notes: Path):
    conftest = notes / "conftest.py"
    conftest.write_text(conftest.read_text().replace("def database_schema", "def schema"))

    done = run_pytest(environment, notes, "test_model.py")

    assert "define a fixture database_schema (scope='session') in conftest.py" in done.stdout
