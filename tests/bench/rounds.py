"""Rounds: each subject is measured in turn, again and again, and what is compared ran side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from tests.bench.load import Taken
from tests.bench.subjects import Server

T = TypeVar("T")

Sample = Mapping[str, float]
"""What one measurement found, by measure."""

Samples = dict[str, dict[str, list[Sample]]]
"""By call and by subject: a sample of each round."""


class Spread(NamedTuple):
    """A median, and how far the middle half lies apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values of all rounds."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def rounded(self) -> dict[str, float]:
        """As it goes into a file."""
        return {name: float(f"{value:.4g}") for name, value in self._asdict().items()}


def ratios(one: Sequence[Sample], other: Sequence[Sample], measure: str) -> Spread:
    """One over the other, within each round: the machine may be slower in one round than in the next."""
    return Spread.of([a[measure] / b[measure] for a, b in zip(one, other, strict=True)])


def sample(server: Server, taken: Taken, cpu_s: float, *, rows: int = 1) -> Sample:
    """What one run has found.

    Args:
        cpu_s: that the server used meanwhile.
        rows: that each request was about.
    """
    number = len(taken.latencies_s)
    return {
        "cpu_us": cpu_s / number / rows * 1e6,
        "per_s": taken.per_s * rows,
        "p50_ms": taken.percentile_ms(0.5),
        "p99_ms": taken.percentile_ms(0.99),
        "memory_mib": server.memory_mib(),
    }


def turned(subjects: Sequence[T], number: int) -> list[T]:
    """The order of a round: each begins one further, so that none always comes after the same one."""
    at = number % len(subjects)
    return [*subjects[at:], *subjects[:at]]
