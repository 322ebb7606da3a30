"""The fixtures, by subject; see the modules."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

# All at once, before the first of them imports another.
pytest.register_assert_rewrite("tests.fixtures")

pytest_plugins = [
    "pytester",
    "tests.fixtures.leaks",
    "tests.fixtures.logs",
    "tests.fixtures.postgres",
    "tests.fixtures.backends",
    "tests.fixtures.databases",
    "tests.fixtures.service",
    "tests.fixtures.migrations",
    "tests.fixtures.inner",
    "tests.fixtures.server",
    "tests.fixtures.signals",
    "tests.fixtures.warm",
    "tests.fixtures.process",
    "tests.fixtures.browser",
    "tests.fixtures.proxies",
    "tests.fixtures.pgbouncer",
    "tests.fixtures.mariadb",
    "tests.fixtures.edge",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected lives as long as the run, so the garbage collector need not look at it ever again.

    That is millions of objects: half a second for each test that calls the collector.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
