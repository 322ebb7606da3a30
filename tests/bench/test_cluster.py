"""That the measurement of instances and replicas measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import cluster


@pytest.mark.slow
def test_each_arrangement_is_measured_and_what_a_write_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    result = tmp_path / "cluster.json"
    small = ["--rounds", "1", "--scale", "0.2", "--tasks", "100", "--json", str(result)]

    assert cluster.main(small) == 0

    told = json.loads(result.read_text())
    assert set(told["medians"]) == set(told["ratios"]) == set(cluster.ARRANGEMENTS)
    assert len(cluster.ARRANGEMENTS) == 4
    for found in told["medians"].values():
        assert all(found[f"{part}_cpu_us"]["median"] > 0 for part in cluster.PARTS)
    second_us = {name: found["second replica_cpu_us"]["median"] for name, found in told["medians"].items()}
    for instances in ("1 instance", "2 instances"):
        of_one, of_both = (second_us[f"{instances}, {replicas}"] for replicas in ("1 replica", "2 replicas"))
        assert of_both > of_one, "the second replica was not read from"
    assert told["ratios"][cluster.BASE]["per_s"]["median"] == 1
    for found in told["writes"].values():
        assert all(one["median"] > 0 for one in found.values())
        assert all(found[f"log_bytes {when}"]["median"] > 100 for when in cluster.WHEN)
    assert "| 2 instances, 2 replicas |" in capsys.readouterr().out
