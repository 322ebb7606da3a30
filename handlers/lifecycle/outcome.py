"""The outcome of a request's work, as clients read it."""

from __future__ import annotations

from db import Outcome

HEADER = "X-Outcome"
"""The header of an error response that is not a problem: its outcome, as a problem has it in its body."""

_OUTCOMES = {Outcome.COMMITTED: "applied", Outcome.UNKNOWN: "unknown"}


def told(outcome: Outcome) -> str:
    """An outcome as clients read it: applied, unknown or not_applied."""
    return _OUTCOMES.get(outcome, "not_applied")
