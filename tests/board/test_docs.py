"""What the documentation names is there."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATTERNS_PAGE = ROOT / "docs" / "patterns.md"
GLOSSARY = ROOT / "docs" / "glossary.md"

_LINK = re.compile(r"\[`([^`]+)`\]\(([^)]+)\)")
TO_COME = "**to come**"

# What issue and notes ask for, by words that its row has.
PATTERNS = (
    "one session factory",
    "for development",
    "`connect_args`",
    "get_bind",
    "`pool_size`",
    "`max_overflow`",
    "`pool_timeout`",
    "`pool_pre_ping`",
    "`pool_recycle`",
    "idle",
    "session_scope",
    "A session a request",
    "Pass the session in",
    "The transfer",
    "expires",
    "expunge",
    "reusable",
    "execute(",
    "scoped_session",
    "contextvars",
    "AsyncSession",
)


def rows() -> list[list[str]]:
    """The rows of all tables in docs/patterns.md, heads left out."""
    lines = [line for line in PATTERNS_PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]
    return [row for row in cells if row[0] != "the notes say"]


def links() -> list[tuple[str, str]]:
    """Name and file of every link of the two pages."""
    return _LINK.findall(PATTERNS_PAGE.read_text() + GLOSSARY.read_text())


@cache
def functions_in(path: Path) -> set[str]:
    """The names of the test functions in a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def found(name: str) -> Any:
    """What a dotted name stands for: module, class, function, method or field of a settings' model."""
    parts = name.split(".")
    module, rest = importlib.import_module(parts[0]), parts[1:]
    value: Any = module
    for index, part in enumerate(rest):
        fields = getattr(value, "model_fields", {})
        if part in fields:
            value = fields[part]
        elif hasattr(value, part):
            value = getattr(value, part)
        else:
            value = importlib.import_module(".".join(parts[: index + 2]))
    return value


@pytest.mark.parametrize(("name", "target"), links(), ids=[name for name, _ in links()])
def test_what_is_linked_to_is_there(name: str, target: str):
    """The file, and in it the symbol or the test."""
    path = (PATTERNS_PAGE.parent / target).resolve()
    assert path.is_file(), target

    if name.startswith("test_"):
        assert name in functions_in(path)
    elif name.endswith(".toml"):
        assert path == ROOT / name
    else:
        symbol = found(name)
        module = getattr(symbol, "__module__", None)
        if isinstance(symbol, type) or hasattr(symbol, "__code__"):
            assert module is not None
            assert (
                Path(f"{module.replace('.', '/')}.py") == path.relative_to(ROOT) or path.name == "__init__.py"
            )


def test_each_row_has_its_code_and_its_test_or_is_still_to_come():
    """No pattern is claimed without something that shows it."""
    for row in rows():
        assert len(row) == 4 or TO_COME in " ".join(row), row
        if TO_COME not in " ".join(row):
            assert _LINK.search(row[2]), row
            assert "`test_" in row[3], row


def test_each_term_of_the_glossary_has_its_origin_its_meaning_and_its_code():
    """Four cells; no term twice."""
    terms = [line.strip("|").split(" | ") for line in GLOSSARY.read_text().splitlines() if line[:2] == "| "]
    terms = [cells for cells in terms if cells[0].strip() != "term"]

    assert all(len(cells) == 4 and _LINK.search(cells[3]) for cells in terms)
    assert len({cells[0] for cells in terms}) == len(terms) > 30


@pytest.mark.parametrize("words", PATTERNS)
def test_no_pattern_is_left_out(words: str):
    """Each has a row of its own."""
    assert any(words in row[0] for row in rows())
