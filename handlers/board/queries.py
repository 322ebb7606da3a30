"""The query arguments of the requests about tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from db.board.tasks import TaskFilter
from handlers.board.cursors import CURSOR
from handlers.board.requests import Bundle, Granularity, TaskStatus
from handlers.json_api.fields import Day, SerialId
from handlers.json_api.query import Number, Query

LIMIT_DEFAULT, LIMIT_MAX = 50, 1000


class TaskChoice(Query):
    """Which tasks: of the list, and of the export."""

    status: Annotated[TaskStatus | None, Number] = Field(None, description="Of this status.")
    bundle: Bundle | None = Field(None, description="Of this bundle.")
    granularity: Granularity | None = Field(None, description="Of this granularity.")
    team_id: Annotated[SerialId | None, Number] = Field(None, description="Of this team.")
    target_from: Day | None = Field(None, description="With this target date or a later one.")
    target_to: Day | None = Field(None, description="With this target date or an earlier one.")

    def where(self) -> TaskFilter:
        names = TaskChoice.model_fields
        return TaskFilter(**{name: getattr(self, name) for name in names})


class TaskQuery(TaskChoice):
    """`GET /tasks`."""

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), Number] = Field(
        LIMIT_DEFAULT, description="How many at most."
    )
    cursor: str | None = Field(
        None,
        description="`next_cursor` of the page before, with the same filters.",
        json_schema_extra={"pattern": CURSOR},
    )
