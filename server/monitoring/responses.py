"""What ``/metrics`` and ``/stats`` answer: types and examples, for the document at ``/openapi.json``."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict  # typing's own is enough for pydantic from Python 3.12 on

from handlers.json_api.errors import CLOSED
from handlers.openapi.headers import REQUEST_ID


@with_config(CLOSED)
class PoolConnections(TypedDict):
    """How many connections a pool may have, lends, and keeps at rest; null where it does not count them."""

    max: int
    used: int | None
    idle: int | None


@with_config(CLOSED)
class PoolSlots(TypedDict):
    """How many units of work may be open on a pool, how many are, how many wait and may wait for a slot
    (`database.pool_max_waiting`), and how many were refused one since the process began."""

    size: int
    taken: int
    waiting: int
    waiting_max: int | None
    refused: int


@with_config(CLOSED)
class PoolStats(TypedDict):
    """A pool as it is at this moment."""

    connections: PoolConnections
    slots: PoolSlots


@with_config(CLOSED)
class UnitStats(TypedDict):
    """An open unit of work."""

    label: str
    request_id: NotRequired[str]
    route: NotRequired[str]
    age_s: float
    pool: str
    has_slot: bool
    has_connection: bool
    outcome: str


@with_config(CLOSED)
class ProcessStats(TypedDict):
    """What a process is doing at this moment; units of work oldest first."""

    process: int
    pid: int
    uptime_s: float
    draining: bool
    requests_in_flight: int
    pools: Annotated[dict[str, PoolStats], Field(description="By name: `writer` and `reader`.")]
    units: list[UnitStats]


@with_config(CLOSED)
class StuckProcess(TypedDict):
    """A process that does not answer."""

    process: int
    error: str


@with_config(CLOSED)
class Stats(TypedDict):
    """What all processes are doing."""

    processes: list[ProcessStats | StuckProcess]


METRICS = """\
# HELP db_client_connection_count Connections of a pool, by what they do.
# TYPE db_client_connection_count gauge
db_client_connection_count{db_client_connection_pool_name="writer",state="used"} 1.0
"""
STATS: Stats = {
    "processes": [
        {
            "process": 0,
            "pid": 4711,
            "uptime_s": 86400.2,
            "draining": False,
            "requests_in_flight": 1,
            "pools": {
                "writer": {
                    "connections": {"max": 10, "used": 1, "idle": 2},
                    "slots": {"size": 10, "taken": 1, "waiting": 0, "waiting_max": None, "refused": 0},
                }
            },
            "units": [
                {
                    "label": "PATCH NoteHandler",
                    "request_id": REQUEST_ID,
                    "route": "/notes/{note_id}",
                    "age_s": 0.012,
                    "pool": "writer",
                    "has_slot": True,
                    "has_connection": True,
                    "outcome": "open",
                }
            ],
        }
    ]
}
