"""How far a run is, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

USUAL_S = {
    "calls": 620,
    "machinery": 70,
    "locks": 30,
    "many": 130,
    "processes": 60,
    "clients": 120,
    "trips": 5,
    "goodput": 120,
    "sqlite": 70,
    "start": 140,
}
"""What each part takes at the default settings on a quiet machine with two processors."""


class Progress:
    """Tells of each part of a run that it begins, and how long the rest will take. Lives as long as the run.

    Args:
        parts: of `USUAL_S`, in their order.
        share: of the default settings' work, as far as that is known beforehand.
    """

    def __init__(self, parts: Sequence[str], *, share: float) -> None:
        self._parts = parts
        self._share = share
        self._began_s = time.monotonic()

    def begins(self, part: str) -> None:
        """Tell so of a part."""
        at = self._parts.index(part)
        took_s = time.monotonic() - self._began_s
        remain_s = self.remain_s(at, took_s)
        print(
            f"bench: {part}, part {at + 1} of {len(self._parts)}; {took_s / 60:.1f} min since the start, "
            f"about {remain_s / 60:.0f} min remain",
            file=sys.stderr,
            flush=True,
        )

    def remain_s(self, done: int, took_s: float) -> float:
        """How long the rest will take.

        Args:
            done: how many parts are.
            took_s: how long those took.
        """
        usual_s = [USUAL_S[part] for part in self._parts]
        share = took_s / sum(usual_s[:done]) if done else self._share
        return share * sum(usual_s[done:])
