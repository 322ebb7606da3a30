"""Examples of what is sent and answered, for the document at ``/openapi.json``."""

from __future__ import annotations

import json
from typing import Any

from handlers.board.responses import (
    Stats,
    Task,
    TaskList,
    TaskPage,
    TasksCreated,
    Team,
    Transfer,
    Transferred,
)

TASK_ID = "f2ee55c638084ebfb35a00c003670ad9"
OTHER_ID = "0a7c2f6be2ab4d3f9a3b1c5d7e9f0a1b"
REQUEST_ID = "5f0c7e0c1d3f4b7c8a51f3f0d6f4f6f1"
CURSOR = "AAWfwg0vUADy7lXGOAhOv7NaAMADZwrZCgt3pX6p3oM"
ETAG = '"1-5a72bb5ba2eb5"'

NEW_TASK: dict[str, Any] = {
    "bundle": "store",
    "granularity": "daily",
    "target_date": "2020-04-01",
    "change_id": 3,
}
WHOLE_TASK = NEW_TASK | {
    "id": OTHER_ID,
    "task_status": 102,
    "s3_keys": {"input": "qa/store/2020-04-01/input.parquet"},
    "team_id": 1,
}

# The row of the contract, whose times are those of the day it was written down.
TASK: Task = {
    "id": TASK_ID,
    "task_status": 101,
    "s3_keys": {},
    "bundle": "store",
    "granularity": "daily",
    "target_date": "2020-04-01",
    "change_id": 3,
    "team_id": None,
    "version": 1,
    "create_time": "2020-03-01T00:00:00Z",
    "update_time": "2020-06-03T10:45:00.287701Z",
}
_LATER: dict[str, Any] = {"version": 2, "update_time": "2020-06-03T10:46:12.001304Z"}
RUNNING_TASK: Task = {**TASK, "task_status": 102, **_LATER}  # type: ignore[typeddict-item]
PAGE: TaskPage = {"items": [TASK], "next_cursor": CURSOR}
CLAIMED: TaskList = {"items": [RUNNING_TASK]}
CREATED: TasksCreated = {"created": 2, "ids": [TASK_ID, OTHER_ID]}
LINES = f"{json.dumps(TASK, separators=(',', ':'))}\n{json.dumps(RUNNING_TASK, separators=(',', ':'))}\n"

TEAM: Team = {"id": 1, "name": "Store QA", "create_time": "2020-03-01T00:00:00Z"}

TRANSFER_NEW: dict[str, Any] = {"from_team_id": None, "to_team_id": 1, "note": "first look"}
TRANSFER: Transfer = {
    "id": 1,
    "task_id": TASK_ID,
    "from_team_id": None,
    "to_team_id": 1,
    "note": "first look",
    "create_time": "2020-06-03T10:46:12.001304Z",
}
TRANSFERRED: Transferred = {
    "task": {**TASK, "team_id": 1, **_LATER},  # type: ignore[typeddict-item]
    "transfer": TRANSFER,
}

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
                    "places": {"size": 10, "taken": 1, "waiting": 0},
                }
            },
            "units": [
                {
                    "label": "PATCH TaskHandler",
                    "request_id": REQUEST_ID,
                    "route": "/tasks/{task_id}",
                    "age_s": 0.012,
                    "pool": "writer",
                    "has_place": True,
                    "has_connection": True,
                    "outcome": "open",
                }
            ],
        }
    ]
}
