"""No string of the four packages is a name of one of them: the build moves imports, and no string."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from setup import PACKAGES

ROOT = Path(__file__).resolve().parent.parent.parent

NAMED = re.compile(rf"(?<![\w.])(?:{'|'.join(PACKAGES)})\.(?:\w|$)|-m (?:{'|'.join(PACKAGES)})\b")
"""A dotted name, or the beginning of one; a program that is run by its module's name."""

ALLOWED = {"conf/program.py": "the command of the tree, where nothing is moved"}


def names_in(source: str) -> Iterator[str]:
    """Strings that name a package, with their lines. Docstrings may: they are read in the tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAMED.search(node.value):
            yield f"{node.lineno}: {node.value}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "files")):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and argument.value in PACKAGES:
                    yield f"{node.lineno}: {argument.value}"


def test_no_string_names_a_package():
    """Where one is needed it is made of ``__name__``, or of an imported module's."""
    assert [
        f"{path.relative_to(ROOT)}:{found}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in ALLOWED
        for found in names_in(path.read_text())
    ] == []


def test_no_template_names_a_package():
    """What is installed beside the modules: settings, the report's template."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in {".html", ".toml"}:
                assert NAMED.search(path.read_text()) is None, path


@pytest.mark.parametrize(
    "source",
    [
        'import_module("db.errors")',
        'import_module(f"db.{label}")',
        'files("conf")',
        'OWN = ("sqlalchemy.", "db.engines.engine")',
        'PROGRAM = """\nfrom server.cli import main\n"""',
        'print("run `python -m server migrate`")',
    ],
)
def test_a_string_that_names_one_is_found(source: str):
    assert list(names_in(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""See `db.errors`."""',
        'log = getLogger("onfinish.db")',
        'import_module(f"{db.__name__}.{label}")',
        'check("server", "database.url", "conf/x.toml")',
    ],
)
def test_a_string_that_names_none_is_not(source: str):
    assert not list(names_in(source))
