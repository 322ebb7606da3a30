"""``docs/scoping.md`` has the pinned verdicts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from db.scope import SCOPES
from server.compare.scenarios import SCENARIOS
from tests.server.compare.pinned import PINNED

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    lines = [line for line in (DOCS / "scoping.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {first: rest for first, *rest in cells}


def short(pinned: str) -> str:
    verdict, *also = pinned.split(" + ")
    return verdict.partition(":")[0] + ("+" if also else "")


def test_the_table_of_verdicts_is_the_pinned_one(rows):
    """Each scenario's line, scope by scope."""
    for name, pinned in PINNED.items():
        assert rows[SCENARIOS[name].title] == [short(each) for each in pinned], name


def test_the_verdicts_are_counted_right(rows):
    for number, scope in enumerate(SCOPES):
        counted = Counter(each[number].partition(":")[0] for each in PINNED.values())
        assert rows[f"{scope}, in all"] == [
            str(counted[kind]) for kind in ("holds", "refused", "lost", "mixed")
        ]


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https://)([^)#]+)", (DOCS / "scoping.md").read_text()):
        assert (DOCS / target).exists(), target
