"""What all peers share: the checks of bodies and queries, the rules of a status, and the cursor of a list.

With pydantic, as the service itself has it, so that a comparison compares something else.
"""

from __future__ import annotations

import base64
import json
import operator
import os
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

POOL_SIZE = 10
PAGE_SIZE = 1000
"""Rows of an export that are read and sent at a time."""

QUEUED = 101
NEXT_STATUSES = {101: {102, 99}, 102: {200, 400, 101, 99}}
S3_KEYS_BYTES_MAX = 64 * 1024


def database_url(drivername: str = "postgresql", sqlite: str = "sqlite") -> str:
    """Where the database is, for a driver of SQLAlchemy's or for none; or for one of SQLite's."""
    url = os.environ["DATABASE_URL"].replace("postgresql://", f"{drivername}://", 1)
    return url.replace("sqlite://", f"{sqlite}://", 1)


def _day(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return date.fromisoformat(value)
    raise ValueError("should be an ISO date, YYYY-MM-DD")


def _json_object(value: Any) -> Any:
    if isinstance(value, dict):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(text.encode()) <= S3_KEYS_BYTES_MAX and "\\u0000" not in text:
            return value
    raise ValueError(f"should be a JSON object of at most {S3_KEYS_BYTES_MAX} bytes")


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]{1,20}", value) else value


TaskId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
TaskStatus = Literal[101, 102, 200, 400, 99]
Bundle = Annotated[str, Field(min_length=1, max_length=64, pattern="^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
Granularity = Literal["hourly", "daily", "weekly", "monthly"]
Day = Annotated[date, BeforeValidator(_day)]
ChangeId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TeamId = Annotated[int, Field(ge=1, le=2**63 - 1)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_json_object)]
Number = BeforeValidator(_number)


class Body(BaseModel):
    """A body. Lives as long as its request."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TaskNew(Body):
    """`POST /tasks`."""

    bundle: Bundle
    granularity: Granularity
    target_date: Day
    change_id: ChangeId
    id: TaskId = Field(default_factory=lambda: uuid.uuid4().hex)
    task_status: TaskStatus = 101
    s3_keys: JsonObject = Field(default_factory=dict)
    team_id: TeamId | None = None


class TasksNew(Body):
    """`POST /tasks/bulk`."""

    items: Annotated[list[TaskNew], Field(min_length=1, max_length=10_000)]


class TaskChange(Body):
    """`PATCH /tasks/{id}`. What is left out stays as it is."""

    task_status: TaskStatus | None = None
    s3_keys: JsonObject | None = None
    bundle: Bundle | None = None
    granularity: Granularity | None = None
    target_date: Day | None = None
    change_id: ChangeId | None = None


class TaskQuery(Body):
    """`GET /tasks`."""

    status: Annotated[TaskStatus | None, Number] = None
    bundle: Bundle | None = None
    granularity: Granularity | None = None
    team_id: Annotated[TeamId | None, Number] = None
    target_from: Day | None = None
    target_to: Day | None = None
    limit: Annotated[int, Number, Field(ge=1, le=1000)] = 50
    cursor: str | None = None


class TaskOut(BaseModel):
    """A task as it is told, for those frameworks that make their answers from models."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    task_status: int
    s3_keys: dict[str, Any]
    bundle: str
    granularity: str
    target_date: date
    change_id: int
    team_id: int | None
    version: int
    create_time: datetime
    update_time: datetime


class PageOut(BaseModel):
    """A page of the list."""

    items: list[TaskOut]
    next_cursor: str | None


class CreatedOut(BaseModel):
    """What a bulk has made."""

    created: int
    ids: list[str]


class Position(NamedTuple):
    """A task's place in the list."""

    create_time: datetime
    id: str


FILTERS: dict[str, tuple[str, str]] = {
    "status": ("task_status", "="),
    "bundle": ("bundle", "="),
    "granularity": ("granularity", "="),
    "team_id": ("team_id", "="),
    "target_from": ("target_date", ">="),
    "target_to": ("target_date", "<="),
}
"""Which column a filter of the list is about, and how it is compared."""

COMPARE: dict[str, Callable[[Any, Any], Any]] = {"=": operator.eq, ">=": operator.ge, "<=": operator.le}


def cursor_of(task: Any) -> str:
    """The cursor of a task's place in the list."""
    return base64.urlsafe_b64encode(f"{task.create_time.isoformat()} {task.id}".encode()).decode()


def position_of(cursor: str) -> Position:
    """The place that a cursor stands for.

    Raises:
        ValueError: it cannot be read.
    """
    moment, task_id = base64.urlsafe_b64decode(cursor).decode().split(" ")
    return Position(datetime.fromisoformat(moment), task_id)


def changes(change: TaskChange, current: Callable[[str], Any]) -> dict[str, Any]:
    """What a change changes, with `version` and `update_time`; nothing where all is as it should be.

    Args:
        current: a column's value as it stands now.

    Raises:
        StatusForbidden: the status may not go there.
    """
    wanted = {name: getattr(change, name) for name in change.model_fields_set}
    status = wanted.get("task_status", current("task_status"))
    if status != current("task_status") and status not in NEXT_STATUSES.get(current("task_status"), ()):
        raise StatusForbidden(f"a task cannot go from status {current('task_status')} to {status}")
    changed = {name: value for name, value in wanted.items() if value != current(name)}
    if changed:
        changed |= {"version": current("version") + 1, "update_time": datetime.now(UTC)}
    return changed


class StatusForbidden(Exception):
    """A status may not go where it was sent."""


def task_json(task: Any) -> dict[str, Any]:
    """A task as it is told, for applications that write their JSON by hand."""
    return {
        "id": task.id,
        "task_status": task.task_status,
        "s3_keys": task.s3_keys,
        "bundle": task.bundle,
        "granularity": task.granularity,
        "target_date": task.target_date.isoformat(),
        "change_id": task.change_id,
        "team_id": task.team_id,
        "version": task.version,
        "create_time": task.create_time.isoformat().removesuffix("+00:00") + "Z",
        "update_time": task.update_time.isoformat().removesuffix("+00:00") + "Z",
    }


def json_text(value: Any) -> str:
    """JSON as the service writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
