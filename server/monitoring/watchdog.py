"""Reports units of work that stay open, and an event loop that is blocked."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref

from conf import OpsSettings
from db import Database
from db.observer import ObservedUnit
from server.monitoring.metrics import Metrics
from server.monitoring.route_names import RouteNames
from server.monitoring.stats import about_origin
from server.monitoring.tracebacks import Origin, stack_of_thread

log = logging.getLogger("onfinish.watchdog")

_LEAK_CHECK_S = 1.0

_BEATS = 4
"""Heartbeats in the time that the loop may be blocked: a lag is measured to within a quarter of that."""

_SQL_CHARS_MAX = 2000


class Watchdog:
    """The watchdog of one process. Lives from `start` to `stop`, on the event loop and in its own thread.

    Requests do not pass through it; only the stack is recorded where a unit of work is opened.
    """

    def __init__(
        self, settings: OpsSettings, database: Database, metrics: Metrics, names: RouteNames
    ) -> None:
        self._leak_s, self._lag_s = settings.leak_s, settings.lag_s
        self._database, self._metrics, self._names = database, metrics, names
        self._reported: weakref.WeakSet[ObservedUnit] = weakref.WeakSet()
        self._timers: list[asyncio.TimerHandle | None] = [None, None]
        self._stopped = threading.Event()
        self._beat_at = 0.0
        self._seen = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start, on the loop to be watched."""
        if self._leak_s is not None:
            self._look_for_leaks(self._leak_s)
        if self._lag_s is not None:
            every_s = self._lag_s / _BEATS
            self._beat_at = time.monotonic()
            self._beat(every_s, self._lag_s)
            self._thread = threading.Thread(
                target=self._look_at_loop,
                args=(threading.get_ident(), self._lag_s / 2, self._lag_s),
                name="onfinish-watchdog",
                daemon=True,
            )
            self._thread.start()

    def stop(self) -> None:
        """Stop. To be called on the loop."""
        self._stopped.set()
        for timer in self._timers:
            if timer is not None:
                timer.cancel()
        if self._thread is not None:
            self._thread.join()

    # -- units of work that stay open

    def _look_for_leaks(self, leak_s: float) -> None:
        now = time.monotonic()
        for unit in self._database.open_units:
            if now - unit.opened_at > leak_s and unit not in self._reported:
                self._reported.add(unit)
                self._metrics.leaked()
                log.warning("%s", self._leak_in_words(unit, now - unit.opened_at))
        every_s = min(_LEAK_CHECK_S, leak_s / 4)
        self._timers[0] = asyncio.get_running_loop().call_later(every_s, self._look_for_leaks, leak_s)

    def _leak_in_words(self, unit: ObservedUnit, age_s: float) -> str:
        about = about_origin(unit, self._names)
        held = "holds a connection" if unit.has_connection else "holds no connection"
        words = [f"{unit.label}: this unit of work has been open for {age_s:.1f} s, and {held}"]
        words += [f"{name}: {value}" for name, value in about.items()]
        if unit.statement is not None:
            words.append(f"last SQL: {unit.statement[:_SQL_CHARS_MAX]}")
        if isinstance(unit.observed, Origin):
            words.append(f"opened at:\n{unit.observed.stack()}".rstrip())
            if stack := unit.observed.stack_now():
                words.append(f"waits now at:\n{stack}".rstrip())
        return "\n".join(words)

    # -- a loop that is blocked

    def _beat(self, every_s: float, lag_s: float) -> None:
        now = time.monotonic()
        lag = now - self._beat_at - every_s
        if lag > lag_s:
            self._metrics.lagged()
            seen, self._seen = self._seen, ""
            where = f"; it was at:\n{seen}".rstrip() if seen else ""
            log.warning("the event loop was blocked for %.0f ms%s", lag * 1000, where)
        self._beat_at = now
        self._timers[1] = asyncio.get_running_loop().call_later(every_s, self._beat, every_s, lag_s)

    def _look_at_loop(self, thread: int, every_s: float, lag_s: float) -> None:
        """Record the stack of the loop's thread while it is late; the loop itself measures the delay only."""
        seen_at = 0.0
        while not self._stopped.wait(every_s):
            beat_at = self._beat_at
            if time.monotonic() - beat_at > lag_s and seen_at != beat_at:
                seen_at = beat_at
                self._seen = stack_of_thread(thread)
