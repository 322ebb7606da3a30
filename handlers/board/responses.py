"""Answers: what is told of a task, a team and a transfer. Made while the request's session is open.

Each has its type, which the document at ``/openapi.json`` is made from and the tests hold real answers
against. Plain dicts of what the database gave: nothing is checked, or costs anything, while a request is
answered, and `write_json` writes dates and moments as RFC 3339 has them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from sqlalchemy import Row
from typing_extensions import TypedDict  # typing's own is enough for pydantic from Python 3.12 on

from db.board import tasks, teams, transfers
from handlers.json_api.body import (
    INT64_MAX,
    Bundle,
    ChangeId,
    Granularity,
    JsonObject,
    Note,
    TaskId,
    TaskStatus,
    TeamId,
    TeamName,
)
from handlers.json_api.errors import CLOSED

_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z$"
_DAY = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"

Moment = Annotated[
    str, Field(pattern=_MOMENT, description="A moment in UTC.", json_schema_extra={"format": "date-time"})
]
DayText = Annotated[str, Field(pattern=_DAY, json_schema_extra={"format": "date"})]
Version = Annotated[int, Field(ge=1, description="1 more with each change.")]


@with_config(CLOSED)
class Task(TypedDict):
    """A task of the board."""

    id: TaskId
    task_status: TaskStatus
    s3_keys: JsonObject
    bundle: Bundle
    granularity: Granularity
    target_date: DayText
    change_id: ChangeId
    team_id: TeamId | None
    version: Version
    create_time: Moment
    update_time: Moment


_TASK = tuple(Task.__annotations__)
"""A task's names, in the order of its table's columns."""


@with_config(CLOSED)
class TaskPage(TypedDict):
    """Some tasks, newest first, and where the list goes on."""

    items: list[Task]
    next_cursor: Annotated[
        str | None, Field(description="`cursor` of the next page; null where this is the last.")
    ]


@with_config(CLOSED)
class TaskList(TypedDict):
    """The tasks that were claimed, oldest first."""

    items: list[Task]


@with_config(CLOSED)
class TasksCreated(TypedDict):
    """What a bulk has made."""

    created: Annotated[int, Field(ge=1)]
    ids: Annotated[list[TaskId], Field(description="In the order of the body's items.")]


@with_config(CLOSED)
class Team(TypedDict):
    """A team, which tasks may belong to."""

    id: TeamId
    name: TeamName
    create_time: Moment


@with_config(CLOSED)
class TeamList(TypedDict):
    """All teams, oldest first."""

    items: list[Team]


@with_config(CLOSED)
class Transfer(TypedDict):
    """A line in a task's log: where it went. The teams may be gone since."""

    id: Annotated[int, Field(ge=1, le=INT64_MAX)]
    task_id: TaskId
    from_team_id: TeamId | None
    to_team_id: TeamId | None
    note: Note | None
    create_time: Moment


@with_config(CLOSED)
class TransferList(TypedDict):
    """A task's log, oldest first."""

    items: list[Transfer]


@with_config(CLOSED)
class Transferred(TypedDict):
    """A task where it is now, and its new line in the log."""

    task: Task
    transfer: Transfer


@with_config(CLOSED)
class Alive(TypedDict):
    """The process runs."""

    status: Literal["alive"]


@with_config(CLOSED)
class Ready(TypedDict):
    """Requests may be sent here."""

    status: Literal["ready"]


@with_config(CLOSED)
class NotReady(TypedDict):
    """Requests had better be sent elsewhere."""

    status: Literal["not ready"]
    reason: str


@with_config(CLOSED)
class PoolConnections(TypedDict):
    """How many connections a pool may have, lends, and keeps at rest; null where it does not count them."""

    max: int
    used: int | None
    idle: int | None


@with_config(CLOSED)
class PoolPlaces(TypedDict):
    """How many units of work may be open on a pool, how many are, and how many wait for a place."""

    size: int
    taken: int
    waiting: int


@with_config(CLOSED)
class PoolStats(TypedDict):
    """A pool as it is at this moment."""

    connections: PoolConnections
    places: PoolPlaces


@with_config(CLOSED)
class UnitStats(TypedDict):
    """An open unit of work."""

    label: str
    request_id: NotRequired[str]
    route: NotRequired[str]
    age_s: float
    pool: str
    has_place: bool
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


def task_json(task: tasks.Task | tasks.TaskRow | Row[Any]) -> dict[str, Any]:
    """What is told of a task: a `Task`, once `write_json` has written its date and its moments."""
    if isinstance(task, tasks.Task):
        return {name: getattr(task, name) for name in _TASK}
    return dict(zip(_TASK, task, strict=True))


def listed_json(row: Row[Any]) -> dict[str, Any]:
    """What is told of a task in a row that has `s3_keys` as text, likewise."""
    task = task_json(row)
    task["s3_keys"] = tasks.s3_keys_of(row)
    return task


def team_json(team: teams.Team) -> dict[str, Any]:
    """What is told of a team: a `Team`, likewise."""
    return {"id": team.id, "name": team.name, "create_time": team.create_time}


def transfer_json(transfer: transfers.Transfer) -> dict[str, Any]:
    """What is told of a transfer: a `Transfer`, likewise."""
    return {
        "id": transfer.id,
        "task_id": transfer.task_id,
        "from_team_id": transfer.from_team_id,
        "to_team_id": transfer.to_team_id,
        "note": transfer.note,
        "create_time": transfer.create_time,
    }
