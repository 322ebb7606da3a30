"""The last ten minutes of a pool as paths of an SVG, and in words when it was full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from server.monitoring.history import SECONDS, Full, PoolHistory
from server.pages.clock import clock, day, zone

WIDTH, HEIGHT = SECONDS, 40


class Chart(NamedTuple):
    """A pool as it is shown: a second is one wide, all slots taken is `HEIGHT` high."""

    name: str
    size: int
    taken: int
    waiting: int
    area: str
    line: str
    waits: str


def chart_of(name: str, history: PoolHistory, *, size: int, taken: int, waiting: int) -> Chart:
    """A chart of ten minutes.

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
    return Chart(name, size, taken, waiting, "".join(area), "".join(line), waits)


def in_words(span: Full, now_s: int) -> str:
    """When the pool of a process was full: ``process 0: 14:02:09 to 14:02:12 UTC, up to 4 waiting``."""
    when, looks = clock(span.began_s), span.ended_s - span.began_s + 1
    if looks > 1:
        when += f" to {clock(span.ended_s)}"
    told = f"process {span.process}: {day(span.began_s, now_s)}{when} {zone(span.ended_s)}"
    if span.seconds < looks:
        told += f", in {span.seconds} of {looks} s"
    return told + (f", up to {span.waiting} waiting" if span.waiting else ", none waiting")


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
