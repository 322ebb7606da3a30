"""The layers of setup.cfg are kept, and would be missed; no circles; which modules may name a database."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from tests.imports import circles_of, graph_of, imports_in_functions, modules_of

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["conf", "db", "handlers", "server"]
MODULES = modules_of(ROOT, LAYERS)

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")

APPLICATION = {
    room.partition(".")[0]: room
    for room in SETUP["importlinter:contract:kernel"]["forbidden_modules"].split()
}
"""The rooms of the board, or of the application in its place, by package."""

IMPORT_IN_FUNCTIONS = {
    "db.backends.drivers": "a driver is loaded where it is used, and asyncpg is an extra",
    "db.database": "Alembic takes a while to load, and create_all alone needs it",
    "db.schema.newest": "and a server only where there is something to migrate",
    "server.cli": "an error of db is only worth its import once there is one",
    "server.commands": "all of them are read for --help; see the package",
    "server.compare.columns": "tornado-sqlalchemy is an extra",
    "server.compare.report": "matplotlib is an extra",
}
"""Modules, or packages, that may import of ours in a function or for type checkers, and why."""

_NAMES_A_DATABASE = re.compile(
    "postgres|psycopg|asyncpg|libpq|pgbouncer|pgcode|sqlstate|sqlite|mysql|mariadb", re.IGNORECASE
)

MAY_NAME_A_DATABASE = {
    "db.backends": "each database's own ways",
    "db.engines": "engines are made of URLs",
    "db.portable": "what each database spells its own way",
    "db.doctor": "each database is asked its own questions",
    "db.schema": "migrations lock and alter as each database does it",
    "db.*.migrations": "a revision has what each database spells its own way",
    "conf.database": "the drivers that may be set, and what only some of them take",
    "conf.settings": "the default is a file, and what is in memory is one process's",
    "conf.loading": "an example in a message",
    # Its rule holds before db is imported, and for drivers that an application uses by itself.
    "conf.redaction": "messages of a driver's errors are withheld, by the module that the error is of",
    "server.compare": "it makes a database of its own, in each one's SQL",
    "server.testing": "it makes a database for each test, in each one's SQL",
}
"""Modules, or packages, whose code names databases and drivers, and why."""

if "board" not in APPLICATION["db"]:
    MAY_NAME_A_DATABASE[APPLICATION["db"]] = "an application may be for some databases alone"


def within(module: str, rooms: Iterable[str]) -> bool:
    """Whether a module is, or is in, one of some modules and packages."""
    return any(fnmatch(module, room) or fnmatch(module, f"{room}.*") for room in rooms)


def code_that_names_a_database(path: Path) -> Iterator[str]:
    """Names and strings of a module that do, with their lines. Docstrings and comments may."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # a docstring, of a module, a class, a function or an attribute
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, str) and field != "type_comment" and _NAMES_A_DATABASE.search(value):
                yield f"line {getattr(node, 'lineno', '?')}: {value}"


def lint_imports(folder: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Check some contracts, or all of them."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    chosen = [f"--contract={name}" for name in contracts]
    return subprocess.run(
        [*command, "--no-cache", "--no-logo", *chosen],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )


def test_imports_point_one_way():
    """Between packages and between their rooms; none of them imports the tests, the kernel no board."""
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 6 kept, 0 broken." in result.stdout


def test_an_import_that_points_the_other_way_is_found(tmp_path):
    """Each package that imports the one above it, or the tests, breaks the contract."""
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    for package, above in zip(LAYERS, [*LAYERS[1:], "tests"], strict=True):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"import {above}\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()

    result = lint_imports(tmp_path, "layers", "tests")

    assert result.returncode == 1
    assert "Contracts: 0 kept, 2 broken." in result.stdout
    for broken in ("conf -> db", "db -> handlers", "handlers -> server", "server -> tests"):
        assert broken in result.stdout


WRONG_IMPORTS = [
    ("db/guard.py", "db.engines.engine"),
    ("handlers/request_id.py", "handlers.base"),
    ("server/edge/linger.py", "server.monitoring.ops"),
    ("db/errors.py", APPLICATION["db"]),
    ("handlers/access_log.py", APPLICATION["handlers"]),
    ("server/monitoring/ops.py", APPLICATION["handlers"]),
]
"""Imports from a room that may not be imported there."""


def test_an_import_from_the_wrong_room_is_found(tmp_path):
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    for package in LAYERS:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    for module, imported in WRONG_IMPORTS:
        with (tmp_path / module).open("a") as file:
            file.write(f"\nimport {imported}\n")

    result = lint_imports(tmp_path)

    assert result.returncode == 1
    assert "Contracts: 2 kept, 4 broken." in result.stdout
    for module, imported in WRONG_IMPORTS:
        assert f"{module.removesuffix('.py').replace('/', '.')} -> {imported}" in result.stdout


def test_every_room_but_the_applications_is_of_the_kernel():
    """A new one that were not named there might import the board, or what an application has in its place."""
    named = set(SETUP["importlinter:contract:kernel"]["source_modules"].split())

    rooms = {".".join(module.split(".")[:2]) for module in MODULES if "." in module}
    assert {room for room in rooms if not room.startswith("conf.")} - named == set(APPLICATION.values())


def test_every_package_that_is_installed_has_a_layer():
    """A fifth package would have to be put somewhere, not be forgotten."""
    installed = {name.removesuffix(".*") for name in SETUP["options.packages.find"]["include"].split()}

    assert installed == set(LAYERS) == set(SETUP["importlinter:contract:layers"]["layers"].split())


def test_no_circle_of_imports():
    """Imports in functions, and those for type checkers only, count as any other."""
    assert circles_of(graph_of(MODULES)) == []


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "__init__.py").write_text("from db import a\n")
    (tmp_path / "db" / "a.py").write_text("from db.b import x\n")
    (tmp_path / "db" / "b.py").write_text("def f():\n    import db.c\n")
    (tmp_path / "db" / "c.py").write_text("if TYPE_CHECKING:\n    from db import a\n")
    modules = modules_of(tmp_path, ["db"])

    circles = circles_of(graph_of(modules))

    assert circles == [{"db.a", "db.b", "db.c"}]
    assert list(imports_in_functions(modules)) == [("db.b", "db.c"), ("db.c", "db.a")]


def test_an_import_in_a_function_has_a_reason():
    """For the time that a command takes to start, or for an extra."""
    assert [
        f"{module} imports {imported} in a function"
        for module, imported in imports_in_functions(MODULES)
        if not within(module, IMPORT_IN_FUNCTIONS)
    ] == []


def test_only_the_rooms_for_it_name_a_database_or_a_driver():
    """What differs between databases is asked of `db.backend.Backend`, or spelt in `db.portable`."""
    assert [
        f"{module}, {found}"
        for module, path in MODULES.items()
        if not within(module, MAY_NAME_A_DATABASE)
        for found in code_that_names_a_database(path)
    ] == []


def test_a_database_that_is_named_is_found(tmp_path):
    path = tmp_path / "module.py"
    lines = (
        '"""Of sqlite."""',
        "# mysql",
        "from db.backends import mysql",
        'x = f"{y} sqlite:///"',
        "z.pgcode = 1",
    )
    path.write_text("\n".join(lines))

    assert sorted(code_that_names_a_database(path)) == [
        "line 3: mysql",
        "line 4:  sqlite:///",
        "line 5: pgcode",
    ]
