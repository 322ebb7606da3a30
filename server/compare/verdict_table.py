"""The verdicts of all scenarios under all scopes, each run in a process that is ended when it hangs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from conf import DatabaseSettings
from server.compare.processes import GRACE_S, Ended, Hung, Worker
from server.compare.scenarios.base import DEADLINE_S
from server.compare.workers import Step, play

_START_S = 20.0
"""What a process may take to be there, on a machine that is busy."""


def verdicts(
    settings: DatabaseSettings, steps: Sequence[Step], *, deadline_s: float = DEADLINE_S
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Run each step; yields its result as soon as there is one.

    One that hangs is ended by its deadline, and where it stops the whole process, with the process; the
    others go on in a new one.

    Args:
        settings: of a migrated database of the comparison's own.
        steps: scenarios and scopes, by name.
        deadline_s: how long each may take.
    """
    left = list(steps)
    while left:
        with Worker(play, settings, left, deadline_s) as worker:
            patience_s = _START_S + deadline_s + GRACE_S
            while left:
                try:
                    result = worker.receive(patience_s)
                except Hung:
                    result = {"verdict": "hung", "reason": f"killed after {patience_s:g} s"}
                except Ended as error:
                    result = {"verdict": "failed", "reason": str(error)}
                patience_s = deadline_s + GRACE_S
                result = {"also": [], "evidence": {}, **result}
                yield left.pop(0), result
                if "took_s" not in result:
                    break
