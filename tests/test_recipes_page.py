"""docs/recipes.md shows the examples that tests/examples runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_example_pages import DOCS

EXAMPLES = Path(__file__).parent / "examples"
LINES_MAX = 40
RECIPES = ["login", "authorization", "idempotency", "tenants", "forms", "jobs", "sentry", "opentelemetry"]


def source_of(name: str) -> str:
    return (EXAMPLES / "recipes" / f"{name}.py").read_text().split('"""\n', 1)[1].lstrip()


def blocks_of_page() -> list[str]:
    return re.findall(r"^```\w+\n(.*?)^```", (DOCS / "recipes.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_has_each_recipe_whole_and_it_is_short(name: str):
    source = source_of(name)
    lines = [line for line in source.splitlines() if line.strip() and not re.match(r"import |from ", line)]

    assert source in blocks_of_page()
    assert len(lines) <= LINES_MAX


def test_each_other_block_is_of_an_example():
    others = [(EXAMPLES / f"{name}.py").read_text() for name in ("orders", "sqlmodel_heroes")]
    whole = [source_of(name) for name in RECIPES]

    assert [
        block
        for block in blocks_of_page()
        if block not in whole and not any(f"\n{block}" in other for other in others)
    ] == []
