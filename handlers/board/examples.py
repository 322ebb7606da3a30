"""Examples of what is sent and answered about tasks, for the document at ``/openapi.json``."""

from __future__ import annotations

import json
from typing import Any

from handlers.board.responses import Task, TaskList, TaskPage, TasksCreated

TASK_ID = "f2ee55c638084ebfb35a00c003670ad9"
OTHER_ID = "0a7c2f6be2ab4d3f9a3b1c5d7e9f0a1b"
CURSOR = "AAWfwg0vUADy7lXGOAhOv7NaAMADZwrZCgt3pX6p3oM"

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
LATER: dict[str, Any] = {"version": 2, "update_time": "2020-06-03T10:46:12.001304Z"}
RUNNING_TASK: Task = {**TASK, "task_status": 102, **LATER}  # type: ignore[typeddict-item]
PAGE: TaskPage = {"items": [TASK], "next_cursor": CURSOR}
CLAIMED: TaskList = {"items": [RUNNING_TASK]}
CREATED: TasksCreated = {"created": 2, "ids": [TASK_ID, OTHER_ID]}
LINES = f"{json.dumps(TASK, separators=(',', ':'))}\n{json.dumps(RUNNING_TASK, separators=(',', ':'))}\n"
