"""The fixtures, by subject; see the modules."""

from __future__ import annotations

import pytest

# All at once, before the first of them imports another.
pytest.register_assert_rewrite("tests.fixtures")

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.loop",
    "tests.fixtures.postgres",
]
