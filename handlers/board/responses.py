"""What is answered about tasks. Made while the request's session is open.

Each answer has its type, which the document at ``/openapi.json`` is made from, and with which the tests check
real answers. What is written are plain dicts of what the database gave, which are not checked while a request
is answered; `write_json` writes dates and moments as RFC 3339 has them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, with_config
from sqlalchemy import Row
from typing_extensions import TypedDict  # typing's own is enough for pydantic from Python 3.12 on

from db.board import tasks
from handlers.board.requests import Bundle, ChangeId, Granularity, S3Keys, TaskStatus
from handlers.json_api.errors import CLOSED
from handlers.json_api.fields import DayText, HexId, Moment, SerialId

Version = Annotated[int, Field(ge=1, description="1 more with each change.")]


@with_config(CLOSED)
class Task(TypedDict):
    """A task of the board."""

    id: HexId
    task_status: TaskStatus
    s3_keys: S3Keys
    bundle: Bundle
    granularity: Granularity
    target_date: DayText
    change_id: ChangeId
    team_id: SerialId | None
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
    ids: Annotated[list[HexId], Field(description="In the order of the body's items.")]


def task_json(task: tasks.TaskRow | Row[Any]) -> dict[str, Any]:
    """A `Task`, once `write_json` has written its date and its moments."""
    return dict(zip(_TASK, task, strict=True))


def listed_json(row: Row[Any]) -> dict[str, Any]:
    """The JSON of a task from a row that has `s3_keys` as text."""
    task = dict(zip(_TASK, row, strict=True))
    task["s3_keys"] = tasks.s3_keys_of(row)
    return task


def etag_of(task: tasks.TaskRow | Row[Any]) -> str:
    """A task's entity tag. The time is part of it, since an id can be deleted and used again."""
    return f'"{task.version}-{round(task.update_time.timestamp() * 1_000_000):x}"'
