"""An application of one's own in the board's place: the kernel's tests pass, and so do the application's.

A copy of this tree loses every folder named ``board``, and is given the lending library of
`tests/examples/library`: tables, handlers, a command and tests. Nothing else is changed in it but the line
that names the routes, and the names in the contracts of import-linter; its first migration is written there
by the command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

BENCH = Path("tests/bench")
"""Measures the board, and goes with it."""

LIBRARY = Path("tests/examples/library")
PLACES = {
    LIBRARY / "db": Path("db/library"),
    LIBRARY / "handlers": Path("handlers/library"),
    LIBRARY / "commands": Path("server/commands/library"),
    LIBRARY / "test_library.py": Path("tests/handlers/library/test_library.py"),
    LIBRARY / "served.py": Path("tests/server/library/test_served.py"),
}
"""Where the library's files are in a clone; their imports are of these places then."""

EMPTY = ("db/library/migrations", "tests/handlers/library", "tests/server/library")
"""Packages that a clone has beside them."""


def make_clone(folder: Path) -> None:
    """Copy the files of this tree, without the board and with the library."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in map(Path, tracked):
        if (ROOT / name).is_file() and "board" not in name.parts[:-1] and not name.is_relative_to(BENCH):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for place, own in PLACES.items():
        (folder / own).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (folder / place).is_dir() else shutil.copy
        copy(folder / place, folder / own)
    for package in EMPTY:
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").touch()
    for file in folder.rglob("library/*.py"):
        if not file.is_relative_to(folder / LIBRARY):
            file.write_text(_moved(file.read_text()))
    app, setup = folder / "server" / "app.py", folder / "setup.cfg"
    source, changed = re.subn(r"\bhandlers\.board\.routes\b", "handlers.library.routes", app.read_text())
    assert changed == 1, "one line names the routes"
    app.write_text(source)
    setup.write_text(re.sub(r"\bboard\b", "library", setup.read_text()))


def _moved(source: str) -> str:
    """A module's text, with its imports of the library's modules as they are in a clone."""
    for place, own in PLACES.items():
        source = source.replace(".".join(place.parts), ".".join(own.parts))
    return source


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with the library in the board's place."""
    folder = tmp_path_factory.mktemp("clone")
    make_clone(folder)
    revision = ["migrate", "revision", "-m", "loans", "--autogenerate", "--database-url", "sqlite://"]
    written = run(folder, "server", *revision)
    assert written.stderr == ""
    assert (folder / "db/library/migrations/library_0001_loans.py").is_file()
    return folder


def run(clone: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` in the clone, with its own packages before those of this tree."""
    own: Mapping[str, str] = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(clone), **environ}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=clone, env=own, check=False, capture_output=True, text=True)


def pytest_in(clone: Path, *arguments: str) -> str:
    """What pytest prints there, in a process of its own; what fails runs once more, as in `scripts/test`."""
    done = run(clone, "pytest", "-q", *arguments)
    if done.returncode == 1:
        print(done.stdout[-8000:])
        done = run(clone, "pytest", "-q", *arguments, "-n", "0", "--last-failed")
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_one_migrate_makes_the_kernels_tables_and_the_applications(clone: Path, tmp_path: Path):
    """The commit markers and idempotency keys beside the library's; the schema is as the code expects."""
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path / 'library.db'}"}

    made, checked = (
        run(clone, "server", *command, **environ) for command in (["migrate"], ["migrate", "check"])
    )

    assert (made.returncode, checked.returncode) == (0, 0), made.stderr + checked.stdout + checked.stderr
    script = run(clone, "server", "migrate", "--sql", **environ).stdout
    tables = set(re.findall(r"CREATE TABLE (\w+)", script))
    assert {"library_books", "library_loans", "commit_witness", "idempotency_keys"} <= tables
    assert not {"teams", "tasks", "transfers"} & tables


PART = ("handlers/library", "server/library", "test_layers.py", "test_rooms.py", "handlers/test_streams.py")
"""The application's tests, and of the kernel's those of the tree's rooms and of some requests."""


@pytest.mark.slow
def test_the_applications_tests_and_a_part_of_the_kernels_pass_without_the_board(clone: Path):
    """With the fixtures of the kernel's."""
    pytest_in(clone, *(f"tests/{each}" for each in PART), "--backend", "sqlite")


@pytest.mark.slow
def test_the_kernels_tests_pass_without_the_board(clone: Path):
    """All that take no minutes; on SQLite, where they can choose."""
    pytest_in(clone, "tests", "--backend", "sqlite", "-n", "2")
