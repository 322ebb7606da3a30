"""One row and a creation on SQLite: the service, and what others use on a file of the same kind.

::

    python -m tests.bench sqlite --rounds 9

As `compare`, each on a copy of one file, whose mode is WAL; foreign keys are enforced in all, and nothing
else is set. The service has one connection that writes and ten that read, through Python's own driver, as
it is installed; the peers have ten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import compare
from tests.bench.calls import CALLS
from tests.bench.files import Files
from tests.bench.goal import Goal
from tests.bench.rounds import ratios
from tests.bench.subjects import BARE_SQLITE, SQLITE_PEERS, Subject

CALLED = ("one", "create")
OWN = Subject("onfinish sqlite", "onfinish, SQLite", is_ours=True)
GOAL = 0.7


def measure(
    *,
    rounds: int,
    tasks: int,
    peers: Sequence[str],
    environments: Path,
    scale: float = 1.0,
    calls: Sequence[str] = CALLED,
) -> dict[str, Any]:
    """Measure the service, the bare handler, and those of the peers that have an application on SQLite."""
    others = [SQLITE_PEERS[f"{name}-sqlite"] for name in peers if f"{name}-sqlite" in SQLITE_PEERS]
    with tempfile.TemporaryDirectory() as folder:
        samples = compare.measure(
            Files(Path(folder)),
            [OWN, BARE_SQLITE, *others],
            [CALLS[name] for name in CALLED if name in calls],
            rounds=rounds,
            environments=environments,
            tasks=tasks,
            scale=scale,
        )
    return {
        "labels": {subject.name: subject.label for subject in [OWN, BARE_SQLITE, *others]},
        "goals": [
            Goal(f"CPU per request, {CALLS[call].label}, SQLite", other.label, GOAL).found(
                ratios(by_subject[OWN.name], by_subject[other.name], "cpu_us"),
                bare=ratios(by_subject[BARE_SQLITE.name], by_subject[other.name], "cpu_us"),
            )
            for call, by_subject in samples.items()
            for other in others
        ],
        "medians": compare.medians(samples),
        "samples": samples,
    }
