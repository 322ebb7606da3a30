"""What the README says is so: its picture, the length of its handler, what it says of others."""

from __future__ import annotations

import re

import handlers.base
from conf import Settings
from server.compare import findings
from tests import pictures
from tests.documents import DOCS, ROOT, blocks
from tests.server.compare.test_scoping_page import pinned_result

PAGE = ROOT / "README.md"
README = PAGE.read_text()

LINES_OF_THE_LOST_WRITE_MAX = 15
LINE_OF_THE_LOST_WRITE_MAX = 25


def line_of(text: str) -> int:
    return README.count("\n", 0, README.index(text)) + 1


def row(first: str) -> list[str]:
    """A row of the comparison with others, without its first cell."""
    [line] = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", README, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_the_lost_write_stands_first_and_is_short():
    """It is what this is for."""
    naive = blocks(PAGE, "python")[0]

    assert naive.line <= LINE_OF_THE_LOST_WRITE_MAX
    assert len([line for line in naive.text.splitlines() if line]) <= LINES_OF_THE_LOST_WRITE_MAX


def test_the_handler_has_twelve_lines():
    handler = blocks(PAGE, "python")[2]

    assert len([line for line in handler.text.splitlines() if line]) == 12
    assert "Twelve lines." in README


def test_the_picture_is_what_the_command_draws():
    assert (DOCS / "request.svg").read_text() == pictures.svg()
    assert "](docs/request.svg)" in README


def test_the_picture_is_the_one_of_the_code():
    """The docstring of handlers/base.py has the same hooks, in the same order."""
    drawing = (handlers.base.__doc__ or "").partition("::\n")[2]
    hooks = [step.hook for step in pictures.STEPS if step.hook]

    assert re.findall(r"^    (\S+)  ", drawing, re.MULTILINE) == hooks


def test_the_scripts_are_there():
    for script in ("scripts/serve", "scripts/test"):
        assert (ROOT / script).stat().st_mode & 0o111

    assert f"http://127.0.0.1:{Settings().http.port}/" in README


def test_what_it_says_of_others_on_tornado_is_what_the_comparison_has_found():
    """By the pinned verdicts: bold is a write that is lost, or kept behind an error."""
    result = pinned_result()
    others = {1: "tornado-sqlalchemy", 2: "baselayer"}
    said = {"COMMIT fails": "commit_fails", "the handler answers 409": "error_status"}
    for first, scenario in said.items():
        for cell, column in others.items():
            verdict = result["scenarios"][scenario]["verdicts"][column]["verdict"]
            assert ("**" in row(first)[cell]) == (verdict in ("lost", "kept")), (first, column)
    wrong = {name: findings.wrong(result, name) for name in ("explicit", *others.values())}
    assert f"tornado-sqlalchemy goes wrong in {wrong['tornado-sqlalchemy']}," in " ".join(README.split())
    assert f"baselayer's way in {wrong['baselayer']}, and this in none" in " ".join(README.split())
    assert wrong["explicit"] == 0
