"""docs/application.md shows the example that tests/examples/test_orders.py runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_the_page_shows_is_the_example():
    page = (ROOT / "docs" / "application.md").read_text()
    example = (ROOT / "tests" / "examples" / "orders.py").read_text()

    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)

    assert len(blocks) >= 4
    for block in blocks:
        assert f"\n{block}" in example, block
