"""All that ``/-/live`` shows, gathered."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, NamedTuple

from db import Database
from server.monitoring.history import COUNTS, DAY_S, Past, PoolHistory
from server.monitoring.process import Process
from server.pages.clock import clock, day, zone
from server.pages.live.chart import Chart, chart_of, in_words
from server.pages.live.look import Look
from server.pages.live.rows import Live, live_of, pids_of
from server.pages.live.sessions import ANSWER_S, AskedSessions

QUESTION = b"l"
"""What processes ask each other for `Look.look`."""

_TOTAL_S = 1.45
"""A page is there by then, whatever hangs: a process, the database, or both."""

_LEAST_S = 0.3

WORDS = {
    "read": "read",
    "kept": "kept",
    "undone": "undone",
    "unknown": "unknown",
    "retries": "retried",
    "refused": "no slot in time",
}
"""How the page calls what `COUNTS` counts."""


_NO_HISTORY = PoolHistory([], [])
"""Of a pool of another database than the application's `database`."""


class View(NamedTuple):
    """What is shown. Lives as long as one answer."""

    live: Live
    charts: list[Chart]
    past: Past
    since_s: int

    @property
    def at(self) -> str:
        """When it was gathered, with the zone of the page's times."""
        return f"{clock(self.past.until_s)} {zone(self.past.until_s)}"

    @property
    def since(self) -> str:
        """Since when it is known whether a pool was full."""
        at_s = max(self.since_s, self.past.until_s - DAY_S)
        return f"{day(at_s, self.past.until_s)}{clock(at_s)} {zone(at_s)}"

    @property
    def counts(self) -> dict[str, int]:
        """The counts of ten minutes, as the page calls them."""
        return {WORDS[name]: self.past.counts[name] for name in COUNTS}

    def full(self, pool: str, spans_max: int | None = None) -> list[str]:
        """When a pool was full, in words, the newest first; of a day there may be thousands."""
        return [in_words(span, self.past.until_s) for span in self.past.full.get(pool, [])[:spans_max]]

    def as_json(self) -> dict[str, Any]:
        """The same, for a program."""
        return {
            "at": self.at,
            "until_s": self.past.until_s,
            "since_s": self.since_s,
            "pools": {
                chart.name: {
                    "size": chart.size,
                    "taken": chart.taken,
                    "waiting": chart.waiting,
                    "full": [span._asdict() for span in self.past.full.get(chart.name, ())],
                    "history": self.past.pools.get(chart.name, _NO_HISTORY)._asdict(),
                }
                for chart in self.charts
            },
            "open": self.live.open,
            "units": [asdict(row) for row in self.live.rows],
            "stuck_processes": self.live.stuck,
            "why_no_locks": self.live.why_no_locks or None,
            "counts": self.past.counts,
        }


class LiveView:
    """Gathers the view. Lives as long as the process, until `stop`; idle while no page is open."""

    def __init__(self, process: Process, database: Database) -> None:
        self._process = process
        self._sessions = AskedSessions(database)
        self.look = Look(process, database)

    def start(self) -> None:
        """Answer the other processes."""
        self._process.peers.answer(QUESTION, self.look.look)

    def stop(self) -> None:
        """Close the connection to the database, if there is one."""
        self._sessions.stop()

    async def gather(self) -> View:
        """Ask the processes and the database."""
        began_at = time.monotonic()
        processes = await self._process.peers.ask(QUESTION)
        left_s = max(_LEAST_S, min(ANSWER_S, _TOTAL_S - (time.monotonic() - began_at)))
        live = live_of(processes, await self._sessions.ask(pids_of(processes), within_s=left_s))
        now_s = int(time.time())
        past = self._process.history.past(now_s)
        pools = [process["pools"] for process in processes if "pools" in process]
        charts = []
        for name in dict.fromkeys(name for each in pools for name in each):
            sums = {
                key: sum(each[name][key] for each in pools if name in each)
                for key in ("size", "taken", "waiting")
            }
            charts.append(chart_of(name, past.pools.get(name, _NO_HISTORY), **sums))
        return View(live, charts, past, self._process.history.since_s)
