"""Counters in shared memory: every process of a server increments its own, and any can read all."""

from __future__ import annotations

import json
import logging
import mmap
import os
import threading
from collections.abc import Collection
from typing import NamedTuple

log = logging.getLogger("onfinish.server")

_KEYS_BYTES = 1 << 18
_NUMBERS = 1 << 15
"""Room for some 2,000 series of 16 numbers. Memory that was never written to costs nothing."""

_SINK = 64
"""Numbers at the end for series that find no room; never read."""

_SLOT_BYTES = _KEYS_BYTES + 8 * _NUMBERS


class Series(NamedTuple):
    """The key of a series, and where its numbers are."""

    family: str
    labels: tuple[str, ...]
    at: int
    size: int


class SharedCounters:
    """Shared memory with a slot for each process. Created before the fork; lives as long as the server.

    A process writes into its own slot alone, without a lock between processes; a reader adds the slots up.
    Counts outlive their process, also when it is killed, and the process that replaces it continues in its
    slot: no sum ever falls. prometheus_client's multiprocess mode keeps files for each process that ever ran,
    and takes 6 µs for an observation where this takes below 2.
    """

    def __init__(self, slots: int = 1) -> None:
        memory = mmap.mmap(-1, slots * _SLOT_BYTES)
        view = memoryview(memory)
        self.slots = [Slot(view[at : at + _SLOT_BYTES]) for at in range(0, slots * _SLOT_BYTES, _SLOT_BYTES)]

    def sums(self) -> dict[tuple[str, tuple[str, ...]], list[float]]:
        """The sums over all slots: numbers by family and labels."""
        found: dict[tuple[str, tuple[str, ...]], list[float]] = {}
        for slot in self.slots:
            for series in slot.series():
                numbers = list(slot.numbers[series.at : series.at + series.size])
                before = found.get((series.family, series.labels))
                if before is not None:
                    numbers = [one + other for one, other in zip(before, numbers, strict=True)]
                found[series.family, series.labels] = numbers
        return found

    @property
    def pids(self) -> list[int]:
        """The processes that have a slot."""
        return [slot.pid for slot in self.slots if slot.pid]


class Slot:
    """One process's part of `SharedCounters`. Lives as long as that; has one process at a time."""

    def __init__(self, memory: memoryview) -> None:
        self._keys_end = memory[:8].cast("q")
        self._pid = memory[8:16].cast("q")
        self._keys = memory[16:_KEYS_BYTES]
        self.numbers = memory[_KEYS_BYTES:].cast("d")
        self._lock = threading.Lock()
        self._next = 0
        self._found: dict[tuple[str, tuple[str, ...]], int] = {}
        self._full = False

    @property
    def pid(self) -> int:
        """The process of this slot, 0 where there is none."""
        return self._pid[0]

    def vacate(self) -> None:
        """Record that the slot's process has ended. Its counts stay."""
        self._pid[0] = 0

    def take(self) -> None:
        """Take the slot over, and continue its counts: to be called once, in the slot's new process."""
        self._pid[0] = os.getpid()
        for series in self.series():
            self._found[series.family, series.labels] = series.at
            self._next = max(self._next, series.at + series.size)

    def offset_of(self, family: str, labels: tuple[str, ...], size: int) -> int:
        """The offset in `numbers` of a series; allocates a new one."""
        with self._lock:
            at = self._found.get((family, labels))
            if at is None:
                at = self._found[family, labels] = self._add(family, labels, size)
            return at

    def offsets(self) -> list[tuple[tuple[str, tuple[str, ...]], int]]:
        """Family and labels of each series, and its offset in `numbers`; for the slot's own process."""
        with self._lock:
            return list(self._found.items())

    def clear(self, families: Collection[str]) -> None:
        """Reset families to zero: the gauges of a process that has ended."""
        for series in self.series():
            if series.family in families:
                for at in range(series.at, series.at + series.size):
                    self.numbers[at] = 0.0

    def series(self) -> list[Series]:
        """The series so far, of this process and of those before it."""
        text = bytes(self._keys[: self._keys_end[0]]).decode()
        return [
            Series(family, tuple(labels), at, size)
            for family, labels, at, size in map(json.loads, text.splitlines())
        ]

    def _add(self, family: str, labels: tuple[str, ...], size: int) -> int:
        at, end = self._next, self._keys_end[0]
        key = json.dumps([family, labels, at, size]).encode() + b"\n"
        if at + size > _NUMBERS - _SINK or end + len(key) > len(self._keys):
            if not self._full:
                self._full = True
                log.error(
                    "there is no room for more metrics; %s%s and later series are not counted", family, labels
                )
            return _NUMBERS - _SINK
        self._next = at + size
        self._keys[end : end + len(key)] = key
        self._keys_end[0] = end + len(key)  # last, so that a concurrent reader sees complete keys only
        return at
