"""What one process does at this moment, as it answers the process that was asked for the page."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tornado.httputil import HTTPServerRequest

from db import AsyncUnitOfWork, Database
from db.observer import ObservedUnit
from db.work.activity import Activity, activity_of, calls_of
from server.edge.http import DrainingServer
from server.monitoring.ops import Ops
from server.monitoring.stats import about_origin
from server.monitoring.tracebacks import Origin
from server.pages.live.places import Place, place_of

UNITS_MAX = 200
"""How many units of a process are looked at, the oldest; the others are counted."""

_SQL_CHARS_MAX = 2000


class Look:
    """Looks at one process. Lives as long as that.

    Args:
        ops: its monitoring.
        database: its own.
        server: counts its requests.
    """

    def __init__(self, ops: Ops, database: Database, server: DrainingServer) -> None:
        self._ops = ops
        self._database = database
        self._server = server
        self._began_at = time.monotonic()

    def look(self) -> dict[str, Any]:
        """Pools and open units of work, as JSON. To be called on the event loop."""
        database, now = self._database, time.monotonic()
        units = database.open_units
        threads = sys._current_frames()
        return {
            "process": self._ops.index,
            "pid": os.getpid(),
            "uptime_s": round(now - self._began_at, 1),
            "requests_in_flight": self._server.busy,
            "pools": {
                endpoint.limiter.name: {
                    "size": endpoint.limiter.size,
                    "taken": endpoint.limiter.taken,
                    "waiting": endpoint.limiter.waiting,
                }
                for endpoint in (database.writer, database.reader)
            },
            "open": len(units),
            "units": [self._unit(unit, now, threads) for unit in units[:UNITS_MAX]],
        }

    def _unit(self, unit: ObservedUnit, now: float, threads: Any) -> dict[str, Any]:
        database = self._database
        endpoint = database.reader if unit.pool == "reader" else database.writer
        activity = activity_of(unit, registry=database.registry, backend=endpoint.backend, threads=threads)
        origin = unit.origin if isinstance(unit, AsyncUnitOfWork) else None
        place = _place(unit, activity)
        return {
            "key": f"{self._ops.index}-{id(unit):x}",
            "label": unit.label,
            "method": origin.method if isinstance(origin, HTTPServerRequest) else None,
            **about_origin(unit, self._ops.names),
            "age_s": round(now - unit.opened_at, 3),
            "pool": unit.pool,
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
