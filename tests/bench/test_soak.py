"""The soak, as long as a test may take."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import soak
from tests.fixtures.process import ROOT


def part(**changes: object) -> dict[str, object]:
    """A tenth in which all is well."""
    held = {
        "memory_mib": 100.0,
        "heap_mib": 80.0,
        "files": 30,
        "threads": 21,
        "sessions": 20,
        "in_transaction": 0,
    }
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


def test_growth_is_told_by_the_million_and_past_the_warm_up():
    """What is opened and cached at first is no growth; what comes steadily afterwards is."""
    first = [(number * 10_000, 80.0 + 2 * number) for number in range(1, 11)]
    samples = first + [(number * 10_000, 100.0 + number / 20) for number in range(11, 101)]

    assert soak.growth_mib_per_million(samples, past=100_000) == 5.0
    assert (soak.growth_mib_per_million(samples, past=0) or 0.0) > 5.0


def test_growth_is_not_told_from_a_single_sample():
    assert soak.growth_mib_per_million([(1000, 90.0), (2000, 90.5)], past=1000) is None


@pytest.mark.slow
def test_a_run_that_is_ended_early_tells_what_was_sent(tmp_path: Path):
    """A long run that is ended early prints its result so far, and stops its server in order."""
    result = tmp_path / "soak.json"
    command = [sys.executable, "-u", "-m", "tests.bench.soak", "--requests", "1000000", "--json", str(result)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == f"warmed up with {soak.WARM_UP_REQUESTS} requests\n"
        run.send_signal(signal.SIGTERM)
        run.stdout.read()

    assert run.returncode == 0
    told = json.loads(result.read_text())
    assert told["faults"] == []
    assert 0 < told["requests"] < 100_000
    assert len(told["parts"]) == 1


@pytest.mark.slow
def test_twenty_thousand_requests_leave_nothing_behind(tmp_path: Path):
    """Memory, descriptors and sessions stay where they were; no request is answered with 500."""
    result = tmp_path / "soak.json"

    assert soak.main(["--requests", "20000", "--json", str(result)]) == 0

    assert json.loads(result.read_text())["requests"] >= 20_000
