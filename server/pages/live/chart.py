"""The last ten minutes of a pool, as paths of an SVG and in words."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from server.monitoring.history import SECONDS, PoolHistory

WIDTH, HEIGHT = SECONDS, 40

_TOLD_MAX = 5


class Chart(NamedTuple):
    """A pool as it is shown: a second is one wide, all slots taken is `HEIGHT` high.

    ``full`` are the spans in which no slot was free, the latest last.
    """

    name: str
    size: int
    taken: int
    waiting: int
    area: str
    line: str
    waits: str
    full: list[str]


def chart_of(name: str, history: PoolHistory, *, size: int, taken: int, waiting: int, until_s: int) -> Chart:
    """A chart of ten minutes that end with a second of the Unix time.

    Args:
        size: the slots of all processes.
        taken: how many are taken now.
        waiting: how many callers wait now.
    """
    area, line = [], []
    for began, values in _runs(history.taken):
        steps = _steps([HEIGHT - HEIGHT * min(value, size) / max(size, 1) for value in values])
        line.append(f"M{began} {steps}")
        area.append(f"M{began} {HEIGHT}V{steps}V{HEIGHT}z")
    waits = "".join(
        f"M{began} 0h{len(values)}v4h-{len(values)}z"
        for began, values in _runs([value or None for value in history.waiting])
    )
    return Chart(
        name,
        size,
        taken,
        waiting,
        "".join(area),
        "".join(line),
        waits,
        _full(history, size=size, until_s=until_s),
    )


def _full(history: PoolHistory, *, size: int, until_s: int) -> list[str]:
    began_s = until_s - SECONDS + 1
    spans = []
    for began, values in _runs(
        [value if value is not None and value >= size else None for value in history.taken]
    ):
        most = max((waiting or 0 for waiting in history.waiting[began : began + len(values)]), default=0)
        first, last = (
            time.strftime("%H:%M:%S", time.localtime(began_s + at)) for at in (began, began + len(values) - 1)
        )
        span = first if first == last else f"{first} to {last}"
        spans.append(span + (f", up to {most} waiting" if most else ""))
    return spans[-_TOLD_MAX:]


def _runs(values: Sequence[int | None]) -> Iterator[tuple[int, list[int]]]:
    """The stretches of values between those that are None, each with where it begins."""
    run: list[int] = []
    for at, value in enumerate([*values, None]):
        if value is not None:
            run.append(value)
        elif run:
            yield at - len(run), run
            run = []


def _steps(heights: Sequence[float]) -> str:
    """Heights as steps of a path, one a second, those that are alike in one."""
    path, width = f"{heights[0]:g}", 0
    for before, height in pairwise(heights):
        width += 1
        if height != before:
            path += f"h{width}V{height:g}"
            width = 0
    return path + f"h{width + 1}"
