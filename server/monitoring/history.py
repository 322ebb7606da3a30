"""The last ten minutes of all processes, second by second, and when a pool was full in the last day.

In shared memory.
"""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from db import Database

SECONDS = 600

COUNTS = ("read", "kept", "undone", "unknown", "retries", "refused")
"""What is counted: units of work by outcome, retries, units that got no slot in time."""

_POOLS = ("writer", "reader")
_FIELDS = 1 + 2 * len(_POOLS) + len(COUNTS)  # the second, and each pool's slots taken and callers waiting
_RING = SECONDS * _FIELDS

DAY_S = 86_400
_APART_S = 60
"""A pool that is full again sooner is so in the same span: a day has no more than `_SPANS`."""
_SPANS = DAY_S // _APART_S
_SPAN = 4  # its first second, its last, how many of those the pool was full in, the most callers waiting
_FULL = 1 + _SPANS * _SPAN  # the number of spans there have been, and the last of them


class PoolHistory(NamedTuple):
    """A pool, second by second, oldest first: None where no process took a sample."""

    taken: list[int | None]
    waiting: list[int | None]


class Full(NamedTuple):
    """When the pool of a process had no free slot, in Unix time, as seen once a second.

    ``seconds``: in so many of these looks. ``waiting``: the most callers that waited in one of them.
    """

    process: int
    began_s: int
    ended_s: int
    seconds: int
    waiting: int


class Past(NamedTuple):
    """The last ten minutes. ``until_s`` is the last of its seconds, of the Unix time.

    ``full``: of the last day, the newest first.
    """

    until_s: int
    pools: Mapping[str, PoolHistory]
    counts: Mapping[str, int]
    full: Mapping[str, list[Full]]


class History:
    """A ring of samples for each process, 54 KB each, and a ring for each of its pools of when it was full.

    The latter have 46 KB, of which the system gives what is written to. Created before the fork; lives as
    long as the server. Each process writes its own rings, and any process reads all of them. A sample that
    another process writes while it is read may be torn: it is one second of a chart.
    """

    def __init__(self, processes: int = 1) -> None:
        each = _RING + len(_POOLS) * _FULL
        memory = memoryview(mmap.mmap(-1, processes * each * 8)).cast("d")
        own = [memory[at : at + each] for at in range(0, processes * each, each)]
        self._rings = [one[:_RING] for one in own]
        self._full = [[one[at : at + _FULL] for at in range(_RING, each, _FULL)] for one in own]
        self.since_s = int(time.time())
        """When it was created: nothing is known of what was before."""

    def put(self, process: int, second: int, numbers: list[float], full: Sequence[bool]) -> None:
        """Write the sample of a second.

        Args:
            numbers: slots taken and callers waiting of each pool, and the counts.
            full: whether each pool had no free slot.
        """
        ring, at = self._rings[process], second % SECONDS * _FIELDS
        ring[at] = 0.0  # not valid until all of it is written
        for offset, number in enumerate(numbers, 1):
            ring[at + offset] = number
        ring[at] = float(second)
        for number, spans in enumerate(self._full[process]):
            if full[number]:
                _extend(spans, second, waiting=numbers[2 * number + 1])

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
        full = {name: self._full_of(number, until_s - DAY_S) for number, name in enumerate(_POOLS)}
        return Past(until_s, pools, dict(zip(COUNTS, counts, strict=True)), full)

    def _full_of(self, pool: int, after_s: int) -> list[Full]:
        found = []
        for process, rings in enumerate(self._full):
            spans = rings[pool]
            for number in range(min(int(spans[0]), _SPANS)):
                at = 1 + number * _SPAN
                span = Full(process, *map(int, spans[at : at + _SPAN]))
                if span.ended_s > after_s:
                    found.append(span)
        return sorted(found, key=lambda span: span.ended_s, reverse=True)


def _extend(spans: memoryview[float], second: int, *, waiting: float) -> None:
    """Add a second in which a pool was full to its last span, or begin another one."""
    at = 1 + (int(spans[0]) - 1) % _SPANS * _SPAN
    if spans[0] and second - spans[at + 1] <= _APART_S:
        spans[at + 1] = float(second)
        spans[at + 2] += 1.0
        spans[at + 3] = max(spans[at + 3], waiting)
        return
    at = 1 + int(spans[0]) % _SPANS * _SPAN
    for offset, number in enumerate((second, second, 1, waiting)):
        spans[at + offset] = float(number)
    spans[0] += 1.0


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
        """Start, on the loop of the process: the first sample is taken within a second."""
        self._sample_in((0.5 - time.time()) % 1.0)

    def _sample_in(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._sample)

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
        full = [limiter.taken >= limiter.size for limiter in self._limiters]
        self._history.put(self._process, int(time.time()), numbers, full)
        # In the middle of each second: no timer that is early, and no clock that is set by a little, has two
        # samples in one second, of which the second would replace the first.
        self._sample_in(1.5 - time.time() % 1.0)
