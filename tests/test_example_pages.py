"""docs/handlers.md and docs/scoping.md show the examples that tests/examples runs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from tests.documents import blocks
from tests.examples import desk, hero_api, hero_fastapi, hero_model
from tests.examples.test_migration import AFTER, BEFORE, FAULTS

DOCS = Path(__file__).parent.parent / "docs"
LINES_MAX = 30


def source_of(module: ModuleType) -> str:
    """A module's text without its docstring."""
    return Path(str(module.__file__)).read_text().split('"""\n', 1)[1].lstrip()


def test_the_page_shows_these_files():
    page = (DOCS / "handlers.md").read_text()

    for module in (hero_model, hero_api, hero_fastapi):
        assert f"```python\n{source_of(module)}```" in page


def test_the_page_shows_the_template():
    [shown] = blocks(DOCS / "handlers.md", "html")

    assert shown.text == desk.TEMPLATES["tickets.html"]


def test_the_handlers_take_no_more_lines_than_is_said():
    page = (DOCS / "handlers.md").read_text()
    lines = {
        module: len([line for line in source_of(module).splitlines() if line.strip()])
        for module in (hero_api, hero_fastapi)
    }

    assert lines[hero_api] < lines[hero_fastapi] <= LINES_MAX
    for module, count in lines.items():
        name = module.__name__.rpartition(".")[2]
        assert f"[`{name}.py`](../tests/examples/{name}.py), {count} lines)" in page


def test_the_documentation_has_the_faults_of_each():
    """In bold, in the forms' own columns."""
    lines = (DOCS / "scoping.md").read_text().splitlines()
    rows = {
        cells[0]: cells[1:] for cells in ([*map(str.strip, line.strip("|").split("|"))] for line in lines)
    }
    for promise, forms in FAULTS.items():
        bold = {form for form, cell in zip([*BEFORE, *AFTER], rows[promise], strict=True) if "**" in cell}
        assert bold == forms, promise
