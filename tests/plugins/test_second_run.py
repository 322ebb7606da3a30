"""`scripts/test`, in a small tree of its own: what fails runs once more, and is named if it passes then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

SETUP = """
[tool:pytest]
testpaths = tests
addopts = -p server.testing.pytest_tornado -p no:schemathesis
"""

TESTS = """
from pathlib import Path

import pytest

def second_time(name):
    file = Path(__file__).with_name(name)
    seen = file.exists()
    file.touch()
    return seen

def test_that_passes():
    pass

@pytest.mark.parametrize("side", ["a", "b"])
def test_that_passes_at_last(side):
    assert second_time(side)

@pytest.fixture
def breaks():
    yield
    assert second_time("breaks")

def test_whose_end_passes_at_last(breaks):
    pass
"""
FAILS = "\ndef test_that_fails():\n    assert second_time('fails') is None\n"
AT_LAST = [
    "tests/test_it.py::test_that_passes_at_last[a]",
    "tests/test_it.py::test_that_passes_at_last[b]",
    "tests/test_it.py::test_whose_end_passes_at_last",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with `scripts/test`, whose other checks pass at once, and whose environment is this one's."""
    plugins = ("__init__", "plugins/__init__", "plugins/second_run")
    for name in ("scripts/test", "scripts/python", *(f"tests/{plugin}.py" for plugin in plugins)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scripts" / "environment.py").touch()
    (tmp_path / "setup.cfg").write_text(SETUP)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in ("ruff", "mypy", "lint-imports", "python"):
        works = f'exec "{sys.executable}" "$@"' if program == "python" else "exit 0"
        (programs / program).write_text(f"#!/bin/sh\n{works}\n")
        (programs / program).chmod(0o755)
    return tmp_path


def scripts_test(tree: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """Run all checks of the tree."""
    (tree / "tests" / "test_it.py").write_text(tests)
    environ = {"PATH": os.environ.get("PATH", os.defpath), "PYTHON": sys.executable}
    return subprocess.run(
        ["scripts/test"], cwd=tree, env=environ, check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_what_passes_in_a_second_run_is_named_at_the_end_and_the_run_succeeds(tree: Path):
    """Also where it was its fixture that failed."""
    done = scripts_test(tree, TESTS)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        "onfinish: passed only in a second run:",
        *(f"  {name}" for name in AT_LAST),
    ]
    assert "tests that needed a second run" in done.stdout


@pytest.mark.slow
def test_what_fails_twice_is_not_named_with_them_and_the_run_fails(tree: Path):
    done = scripts_test(tree, TESTS + FAILS)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "onfinish: passed only in a second run:",
        *(f"  {name}" for name in AT_LAST),
        "onfinish: failed: pytest",
    ]
