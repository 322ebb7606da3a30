"""Tornado's own tests pass with `SessionHandler` in the place of `RequestHandler`, but for those listed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tornado

from tests.tornado_suite.expected import EXPECTED, PINNED

TESTS_MIN = 600
"""Tornado 6.6.1 has 689 in these modules: a run of fewer has not loaded them."""

EXPECTED_MAX = 30


def run_suite(file: Path, *options: str) -> dict[str, Any]:
    """Run the suite in a process of its own; gives its result."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tornado_suite", str(file), *options],
        # What a test waits for may come late on a machine that does other things as well.
        env={**os.environ, "ASYNC_TEST_TIMEOUT": "60"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--insert",)], ids=["as_it_is", "with_an_insert"])
def test_tornados_own_tests_pass_but_for_those_that_are_listed(tmp_path: Path, options: tuple[str, ...]):
    """What is not listed has to pass, and what is listed to fail, for the reason in the list.

    With an INSERT each request waits for its COMMIT between ``finish()`` and the first byte.
    """
    result = run_suite(tmp_path / "requests.db", *options)

    faults: dict[str, str] = result["faults"]
    version = f"with Tornado {tornado.version}; the list is that of {PINNED}"
    unexpected = {
        name: text
        for name, text in faults.items()
        if name not in EXPECTED or EXPECTED[name].shows not in text
    }
    assert unexpected == {}, version
    assert EXPECTED.keys() - faults.keys() == set(), f"they pass {version}"
    assert result["run"] >= TESTS_MIN
    assert (result["rows"] >= TESTS_MIN) == bool(options)


def test_the_list_of_exceptions_stays_short():
    assert len(EXPECTED) <= EXPECTED_MAX
