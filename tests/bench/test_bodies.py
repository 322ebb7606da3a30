"""That the measurement of large bodies measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import __main__ as bench, bodies

HEAVY = ("ints", "lists", "lists in a bulk", "one item of 700,000 fields")
"""Those of so many values that reading them takes seconds."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in bodies.BODIES]
)
def test_each_body_is_as_large_as_a_bulk_may_be_and_no_larger(name: str):
    """But for the two that are smaller and worse."""
    head, _, body = bodies.body_of(name).partition(b"\r\n\r\n")

    assert f"Content-Length: {len(body)}".encode() in head
    assert 2 * 2**20 < len(body) <= bodies.BODY_BYTES_MAX
    json.loads(body)


@pytest.mark.slow
def test_it_runs_and_tells_what_each_adds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = tmp_path / "bodies.json"
    few = [
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--drivers",
        "sqlite",
        "--body",
        "lists in a bulk",
        "--body",
        "full",
        *("--body", "page", "--body", "claim", "--body", "export"),
    ]

    assert bench.main(["bodies", *few, "--json", str(result)]) == 0

    told = json.loads(result.read_text())["sqlite"]
    assert list(told) == ["lists in a bulk", "full", "page", "claim", "export"]
    assert all(one["beside_ms"]["median"] > 0 for one in told.values())
    out = capsys.readouterr().out
    assert "| sqlite | full |" in out
    assert "| sqlite | export |" in out
