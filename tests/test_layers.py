"""The layering that setup.cfg describes is kept, and would be missed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["conf", "db", "handlers", "server"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run(
        [*command, "--no-cache", "--no-logo"], cwd=folder, check=False, capture_output=True, text=True
    )


def test_imports_point_one_way():
    """conf <- db <- handlers <- server, and none of them imports the tests."""
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 2 kept, 0 broken." in result.stdout


def test_an_import_that_points_the_other_way_is_found(tmp_path):
    """Each package that imports the one above it, or the tests, breaks the contract."""
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    for package, above in zip(LAYERS, [*LAYERS[1:], "tests"], strict=True):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"import {above}\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()

    result = lint_imports(tmp_path)

    assert result.returncode == 1
    assert "Contracts: 0 kept, 2 broken." in result.stdout
    for broken in ("conf -> db", "db -> handlers", "handlers -> server", "server -> tests"):
        assert broken in result.stdout


def test_every_package_that_is_installed_has_a_layer():
    """A fifth package would have to be put somewhere, not be forgotten."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    installed = {name.removesuffix(".*") for name in setup["options.packages.find"]["include"].split()}

    assert installed == set(LAYERS) == set(setup["importlinter:contract:layers"]["layers"].split())
