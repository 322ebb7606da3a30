"""The state of a process at this moment, as JSON."""

from __future__ import annotations

import os
import time
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from db import AsyncUnitOfWork, Database
from db.capacity.endpoint import Endpoint
from db.observer import ObservedUnit
from handlers.request_id import request_id_of
from server.edge.http import DrainingServer
from server.monitoring.route_names import RouteNames


class Stats:
    """The statistics of one process. Lives as long as that."""

    def __init__(
        self,
        index: int,
        database: Database,
        names: RouteNames,
        application: Application,
        server: DrainingServer,
    ) -> None:
        self._index = index
        self._database = database
        self._names = names
        self._application = application
        self._began_at = time.monotonic()
        self._server = server

    def look(self) -> dict[str, Any]:
        """Pools, slots, and open units of work, oldest first. To be called on the event loop."""
        database = self._database
        now = time.monotonic()
        return {
            "process": self._index,
            "pid": os.getpid(),
            "uptime_s": round(now - self._began_at, 1),
            "draining": bool(self._application.settings.get("draining")),
            "requests_in_flight": self._server.busy,
            "pools": {
                endpoint.limiter.name: _pool(endpoint) for endpoint in (database.writer, database.reader)
            },
            "units": [self._unit(unit, now) for unit in database.open_units],
        }

    def _unit(self, unit: ObservedUnit, now: float) -> dict[str, Any]:
        return {
            "label": unit.label,
            **about_origin(unit, self._names),
            "age_s": round(now - unit.opened_at, 3),
            "pool": unit.pool,
            "has_slot": unit.has_slot if isinstance(unit, AsyncUnitOfWork) else True,
            "has_connection": unit.has_connection,
            "outcome": unit.outcome.value,
        }


def about_origin(unit: ObservedUnit, names: RouteNames) -> dict[str, str]:
    """The request that a unit of work was made for, where it was made for one."""
    request = unit.origin if isinstance(unit, AsyncUnitOfWork) else None
    if not isinstance(request, HTTPServerRequest):
        return {}
    return {"request_id": request_id_of(request), "route": names.of_request(request)}


def _pool(endpoint: Endpoint) -> dict[str, Any]:
    pool: Any = endpoint.engine.pool
    used, idle = (pool.checkedout(), pool.checkedin()) if hasattr(pool, "checkedout") else (None, None)
    limiter = endpoint.limiter
    return {
        "connections": {"max": limiter.size, "used": used, "idle": idle},
        "slots": {
            "size": limiter.size,
            "taken": limiter.taken,
            "waiting": limiter.waiting,
            "waiting_max": limiter.waiting_max,
            "refused": limiter.refused,
        },
    }
