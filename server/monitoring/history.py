"""The last ten minutes of all processes, second by second, in shared memory."""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from db import Database

SECONDS = 600

COUNTS = ("read", "kept", "undone", "unknown", "retries", "refused")
"""What is counted: units of work by outcome, retries, units that got no slot in time."""

_POOLS = ("writer", "reader")
_FIELDS = 1 + 2 * len(_POOLS) + len(COUNTS)  # the second, and each pool's slots taken and callers waiting
_RING = SECONDS * _FIELDS


class PoolHistory(NamedTuple):
    """A pool, second by second, oldest first: None where no process took a sample."""

    taken: list[int | None]
    waiting: list[int | None]


class Past(NamedTuple):
    """The last ten minutes. ``until_s`` is the last of its seconds, of the Unix time."""

    until_s: int
    pools: Mapping[str, PoolHistory]
    counts: Mapping[str, int]


class History:
    """A ring of samples for each process, 54 KB each. Created before the fork; lives as long as the server.

    Each process writes its own ring, and any process reads all of them. A sample that another process writes
    while it is read may be torn: it is one second of a chart.
    """

    def __init__(self, processes: int = 1) -> None:
        memory = memoryview(mmap.mmap(-1, processes * _RING * 8)).cast("d")
        self._rings = [memory[at : at + _RING] for at in range(0, processes * _RING, _RING)]

    def put(self, process: int, second: int, numbers: list[float]) -> None:
        """Write the sample of a second: slots taken and callers waiting of each pool, and the counts."""
        ring, at = self._rings[process], second % SECONDS * _FIELDS
        ring[at] = 0.0  # not valid until all of it is written
        for offset, number in enumerate(numbers, 1):
            ring[at + offset] = number
        ring[at] = float(second)

    def past(self, until_s: int) -> Past:
        """The sums over all processes, of the ten minutes until a second of the Unix time."""
        series: list[list[int | None]] = [[None] * SECONDS for _ in range(2 * len(_POOLS))]
        counts = [0] * len(COUNTS)
        began_s = until_s - SECONDS + 1
        for ring in self._rings:
            samples = ring.tolist()
            for at in range(0, _RING, _FIELDS):
                place = int(samples[at]) - began_s
                if not 0 <= place < SECONDS:
                    continue
                for number, one in enumerate(series, at + 1):
                    one[place] = (one[place] or 0) + int(samples[number])
                first = at + 1 + len(series)
                counts = [total + int(more) for total, more in zip(counts, samples[first:], strict=False)]
        pools = {
            name: PoolHistory(series[2 * number], series[2 * number + 1])
            for number, name in enumerate(_POOLS)
        }
        return Past(until_s, pools, dict(zip(COUNTS, counts, strict=True)))


class Sampler:
    """Takes one process's sample each second. Lives from `start` to `stop`, on the event loop.

    Requests do not pass through it.

    Args:
        history: takes the samples.
        process: which of its rings is this process's.
        database: whose pools are looked at.
        totals: returns the counts since the process began, in the order of `COUNTS`.
    """

    def __init__(
        self, history: History, process: int, database: Database, totals: Callable[[], list[float]]
    ) -> None:
        self._history, self._process = history, process
        self._limiters = [database.writer.limiter, database.reader.limiter]
        self._totals = totals
        self._before = totals()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, on the loop of the process."""
        now = time.time()
        self._timer = asyncio.get_running_loop().call_later(1.0 - now % 1.0, self._sample)

    def stop(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def _sample(self) -> None:
        totals = self._totals()
        numbers: list[float] = []
        for limiter in self._limiters:
            numbers += (limiter.taken, limiter.waiting)
        numbers += [now - before for now, before in zip(totals, self._before, strict=True)]
        self._before = totals
        self._history.put(self._process, int(time.time()), numbers)
        self.start()
