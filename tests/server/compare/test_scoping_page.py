"""``docs/scoping.md`` has the pinned verdicts, and the picture of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server.compare import findings
from server.compare.columns import TITLES
from server.compare.picture import svg
from server.compare.scenarios import SCENARIOS
from server.compare.verdicts import Kind
from tests.server.compare.pinned import COLUMNS, PINNED

DOCS = Path(__file__).resolve().parents[3] / "docs"


def pinned_result() -> dict[str, Any]:
    """The pinned verdicts, as the result of a comparison has them."""
    return {"scenarios": {name: scenario(name, pins) for name, pins in PINNED.items()}}


def scenario(name: str, pins: tuple[str, ...]) -> dict[str, Any]:
    verdicts = {}
    for column, pin in zip(COLUMNS, pins, strict=True):
        verdict, *also = pin.split(" + ")
        verdicts[column] = {"verdict": verdict.partition(":")[0], "also": also}
    return {"title": SCENARIOS[name].title, "group": SCENARIOS[name].group, "verdicts": verdicts}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    lines = [line for line in (DOCS / "scoping.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {first: rest for first, *rest in cells}


def test_the_table_of_verdicts_is_the_pinned_one(rows):
    """Each scenario's line, a letter a form."""
    for name, each in pinned_result()["scenarios"].items():
        assert rows[each["title"]] == [findings.letter(each["verdicts"][column]) for column in COLUMNS], name


def test_the_verdicts_are_counted_right(rows):
    """By form: each kind, how many went wrong, and how many leaked."""
    result = pinned_result()
    for column, counts in findings.tally(result).items():
        counted = [str(counts.get(kind.value, 0)) for kind in Kind if kind is not Kind.LEAKED]
        wrong = [str(findings.wrong(result, column)), str(findings.leaks(result, column))]
        assert rows[f"{TITLES[column]}, in all"] == [*counted, *wrong], column


def test_the_picture_is_that_of_the_pinned_verdicts():
    assert (DOCS / "scoping.svg").read_text() == svg(pinned_result())
    assert "![" in (text := (DOCS / "scoping.md").read_text())
    assert "](scoping.svg)" in text


def test_the_recommendation_has_the_numbers_of_the_pinned_verdicts():
    """Its three sentences are those of the report."""
    text = " ".join((DOCS / "scoping.md").read_text().replace("*", "").split())
    for sentence in findings.recommendation(pinned_result())[:2]:
        assert sentence in text


def test_the_first_screen_of_the_readme_leads_here():
    readme = (DOCS.parent / "README.md").read_text()

    assert "docs/scoping.md" in readme.partition("\n## ")[0]


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https://)([^)#]+)", (DOCS / "scoping.md").read_text()):
        assert (DOCS / target).exists(), target
