"""Query arguments: what each list takes, and the reader that checks it."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from tornado.web import RequestHandler

from db.board.tasks import TaskFilter
from handlers.board.cursors import CURSOR
from handlers.json_api.body import Bundle, Day, Granularity, TaskStatus, TeamId, faults_in
from handlers.json_api.errors import Problem

LIMIT_DEFAULT, LIMIT_MAX = 50, 1000

FAULTS_MAX = 20
"""How many faults are told. Tornado takes a thousand arguments."""


def _number(value: Any) -> int:
    """An integer as digits. Python's own reader takes " 5", "5_0" and digits of other scripts too."""
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,100}", value):
        return int(value)
    raise PydanticCustomError("int_type", "Input should be a valid integer")


Number = BeforeValidator(_number)


class Query(BaseModel):
    """The query arguments of one request. Lives as long as the request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TaskChoice(Query):
    """Which tasks: of the list, and of the export."""

    status: Annotated[TaskStatus | None, Number] = Field(None, description="Of this status.")
    bundle: Bundle | None = Field(None, description="Of this bundle.")
    granularity: Granularity | None = Field(None, description="Of this granularity.")
    team_id: Annotated[TeamId | None, Number] = Field(None, description="Of this team.")
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


AnyQuery = TypeVar("AnyQuery", bound=Query)


def read_query(handler: RequestHandler, model: type[AnyQuery]) -> AnyQuery:
    """The query arguments of a handler's request, checked: none unknown, none twice.

    Raises:
        Problem: 400, with every fault in its detail.
    """
    # Not get_query_argument: it cuts white space off, and turns control characters into spaces.
    arguments: dict[str, Any] = {}
    faults: list[str] = []
    for name, values in handler.request.query_arguments.items():
        if name not in model.model_fields:
            faults.append(f"{_shown(name)}: there is no such argument")
            continue
        try:
            arguments[name] = values[0].decode("utf-8")
        except UnicodeDecodeError:
            faults.append(f"{name}: is not UTF-8")
        if len(values) > 1:
            faults.append(f"{name}: is given {len(values)} times")
    try:
        query = model.model_validate(arguments)
    except ValidationError as error:
        faults += [f"{path[0]}: {message}" for path, message in faults_in(error)]
    else:
        if not faults:
            return query
    more = f"; and {len(faults) - FAULTS_MAX} more" if len(faults) > FAULTS_MAX else ""
    raise Problem(400, "query arguments are wrong: " + "; ".join(faults[:FAULTS_MAX]) + more)


def _shown(name: str) -> str:
    """An argument's name as a sentence may have it. Tornado reads names as Latin-1."""
    return name.encode("latin-1").decode("utf-8", "replace")[:64] or '""'
