"""The soak, as long as a test may take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import soak


def part(**changes: object) -> dict[str, object]:
    """A tenth in which all is well."""
    held = {"memory_mib": 100.0, "files": 30, "threads": 21, "sessions": 20, "in_transaction": 0}
    return {"requests": 100, "statuses": {200: 100}, **held, **changes}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"memory_mib": 105.0}, "memory grew by 5.0 MiB"),
        ({"files": 40}, "40 descriptors, 30 after the first tenth"),
        ({"sessions": 21}, "21 sessions at PostgreSQL"),
        ({"in_transaction": 1}, "a session in a transaction, with no request under way"),
        ({"statuses": {200: 99, 500: 1}}, "answers of [500]"),
    ],
)
def test_what_passes_a_bound_is_named(changes: dict[str, object], fault: str):
    assert soak.faults_of([part(), part()], pool_size=10) == []
    assert soak.faults_of([part(), part(**changes)], pool_size=10) == [fault]


def test_growth_is_told_by_the_million():
    parts = [part(requests=100_000, memory_mib=100.0 + number) for number in range(10)]

    assert soak.growth_mib_per_million(parts) == 10.0


@pytest.mark.slow
def test_twenty_thousand_requests_leave_nothing_behind(tmp_path: Path):
    """Memory, descriptors and sessions stay where they were; no request is answered with 500."""
    result = tmp_path / "soak.json"

    assert soak.main(["--requests", "20000", "--json", str(result)]) == 0

    assert json.loads(result.read_text())["requests"] >= 20_000
