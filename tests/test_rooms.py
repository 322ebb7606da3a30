"""The kernel's tests do without the board: only what lies in its own folders imports it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS = ("db.board", "handlers.board", "server.commands.board")

OF_THE_BOARD = ("board", "bench")
"""Folders that go with the board: `tests.bench` measures its calls."""


def imports_in(source: str) -> Iterator[str]:
    """What a module imports, by dotted name: at its top and inside of functions, of strings that are programs
    too."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{name.name}" for name in names)
            case ast.Constant(value=str(text)) if "import " in text:
                for line in text.splitlines():
                    try:
                        statement = ast.parse(line.strip())
                    except (SyntaxError, ValueError):  # prose
                        continue
                    if any(isinstance(each, ast.Import | ast.ImportFrom) for each in statement.body):
                        yield from imports_in(line.strip())


def is_of_the_board(imported: str) -> bool:
    parts = imported.split(".")
    in_a_room = any(imported == room or imported.startswith(f"{room}.") for room in ROOMS)
    return in_a_room or (parts[0] == "tests" and bool(set(OF_THE_BOARD).intersection(parts)))


def importers() -> list[str]:
    """The test modules that import the board, and do not go with it."""
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
    return [
        path.as_posix()
        for path in paths
        if not set(OF_THE_BOARD).intersection(path.parts)
        and ROOT / path != Path(__file__)  # its examples
        and any(map(is_of_the_board, imports_in((ROOT / path).read_text())))
    ]


def test_no_test_of_the_kernel_imports_the_board():
    """Folders named ``board``, and ``tests/bench``, can be deleted, and the rest is collected."""
    assert importers() == []


@pytest.mark.parametrize(
    "source",
    [
        "import db.board.tasks",
        "from db.board import tasks",
        "from db import board",
        "def f():\n    from handlers.board.routes import routes",
        "from tests.fixtures.board.rows import add_task",
        "PROGRAM = '''\nimport sys\nfrom db.board.teams import create_team\n'''",
    ],
)
def test_an_import_of_the_board_would_be_found(source: str):
    assert any(map(is_of_the_board, imports_in(source)))


def test_each_folder_of_the_board_serves_the_board():
    """The fixtures of `tests.fixtures.service` are overridden where tests of the board are."""
    folders = [path for path in (ROOT / "tests").rglob("board") if list(path.glob("test_*.py"))]

    assert bool(folders) == (ROOT / "db" / "board").exists()
    for folder in folders:
        conftest = (folder / "conftest.py").read_text()
        assert "tests.fixtures.board.service" in conftest, PurePosixPath(folder)
