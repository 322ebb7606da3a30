"""What one process does at this moment, as it answers the process that was asked for the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tornado.httputil import HTTPServerRequest

from db import AsyncUnitOfWork, Database
from db.observer import ObservedUnit
from db.work.activity import Activity, activity_of, calls_of
from server.monitoring.process import Process
from server.monitoring.stats import about_origin
from server.monitoring.tracebacks import Origin
from server.pages.live.places import Place, place_of

UNITS_MAX = 200
"""How many units of a process are looked at, the oldest; the others are counted."""

_SQL_CHARS_MAX = 2000


class Look:
    """Looks at one process. Lives as long as that.

    Args:
        process: which one.
        database: its own.
    """

    def __init__(self, process: Process, database: Database) -> None:
        self._process = process
        self._database = database
        self.others: Mapping[str, Database] = {}
        """The process's other databases, by name."""

    def look(self) -> dict[str, Any]:
        """Pools and open units of work, as JSON. To be called on the event loop.

        Pools of another database have its name in front: "billing writer".
        """
        now, threads = time.monotonic(), sys._current_frames()
        databases = {"": self._database, **{f"{name} ": each for name, each in self.others.items()}}
        units = [(unit, name) for name, each in databases.items() for unit in each.open_units]
        units.sort(key=lambda found: found[0].opened_at)
        return {
            "process": self._process.index,
            "pools": {
                f"{name}{endpoint.limiter.name}": {
                    "size": endpoint.limiter.size,
                    "taken": endpoint.limiter.taken,
                    "waiting": endpoint.limiter.waiting,
                }
                for name, database in databases.items()
                for endpoint in (database.writer, database.reader)
            },
            "open": len(units),
            "units": [
                self._unit(unit, databases[name], name, now, threads) for unit, name in units[:UNITS_MAX]
            ],
        }

    def _unit(
        self, unit: ObservedUnit, database: Database, name: str, now: float, threads: Any
    ) -> dict[str, Any]:
        endpoint = database.reader if unit.pool == "reader" else database.writer
        activity = activity_of(unit, registry=database.registry, backend=endpoint.backend, threads=threads)
        origin = unit.origin if isinstance(unit, AsyncUnitOfWork) else None
        place = _place(unit, activity)
        return {
            "key": f"{self._process.index}-{id(unit):x}",
            "label": unit.label,
            "method": origin.method if isinstance(origin, HTTPServerRequest) else None,
            **about_origin(unit, self._process.names),
            "age_s": round(now - unit.opened_at, 3),
            "pool": f"{name}{unit.pool}",
            "stage": activity.stage,
            "step": activity.step,
            "queued_s": None if activity.queued_at is None else round(now - activity.queued_at, 3),
            "deadline_in_s": None if activity.deadline_at is None else round(activity.deadline_at - now, 3),
            "has_connection": unit.has_connection,
            "server_pid": activity.server_pid,
            "statements": activity.statements,
            "sql": (unit.statement or "")[:_SQL_CHARS_MAX],
            "place": None if place is None else place._asdict(),
        }


def _place(unit: ObservedUnit, activity: Activity) -> Place | None:
    """Where a unit is: in its thread or greenlet, else where the request's task waits."""
    found = place_of(calls_of(activity.frame))
    if found is None and isinstance(unit.observed, Origin):
        found = place_of(reversed(unit.observed.frames_now()))
    return found
