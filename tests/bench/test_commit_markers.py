"""That the measurement of commit markers measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import commit_markers


def test_ratios_are_taken_within_a_pair_of_rounds():
    """The machine may be slower in one pair than in the next; what is compared ran side by side."""
    rounds = [
        (
            dict.fromkeys(commit_markers.MEASURES, 2.0 * factor),
            dict.fromkeys(commit_markers.MEASURES, 1.0 * factor),
        )
        for factor in (1.0, 3.0, 10.0)
    ]

    for name in commit_markers.MEASURES:
        assert commit_markers.compared(rounds)[name] == {
            "with": 6.0,
            "without": 3.0,
            "ratio": 2.0,
            "quartiles": [2.0, 2.0],
        }


@pytest.mark.slow
def test_it_runs_and_tells_all_three(tmp_path: Path):
    result = tmp_path / "commit_markers.json"

    assert commit_markers.main(["--rounds", "2", "--requests", "200", "--json", str(result)]) == 0

    told = json.loads(result.read_text())
    assert all(told[name]["with"] > 0 and told[name]["without"] > 0 for name in commit_markers.MEASURES)
