"""The bodies of the requests about tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, PrivateAttr

from db.board.tasks import BUNDLE_CHARS_MAX, CHANGE_ID_MAX, NewTask, TaskChange as Change
from handlers.json_api.body import NAMES_MAX, TOO_MANY_FIELDS, UNKNOWN_FIELD, Body, check, examined, refusal
from handlers.json_api.errors import FAULTS_MAX
from handlers.json_api.fields import NO_CONTROLS, Day, HexId, NoFloat, SerialId, StoredJson, left_out
from handlers.json_api.json_text import Path, parse_pieces

S3_KEYS_BYTES_MAX = 64 * 1024
"""Room for 33,000 values, of the 150,000 that a body may have."""

BULK_MAX = 10_000

BULK_VALUES_MAX = 500_000
"""Of a bulk: 50 for each task of the largest one. 8 MiB have room for 4,000,000, which took 190 MiB."""

TWICE_IN_BULK = "stands in this bulk more than once"

CLAIM_MAX = 100

TaskStatus = Annotated[
    Literal[101, 102, 200, 400, 99],
    NoFloat,
    Field(description="101 queued, 102 running, 200 passed, 400 failed, 99 cancelled."),
]
S3Keys = Annotated[dict[str, Any], StoredJson(bytes_max=S3_KEYS_BYTES_MAX)]
Bundle = Annotated[str, Field(min_length=1, max_length=BUNDLE_CHARS_MAX, pattern=NO_CONTROLS)]
Granularity = Literal["hourly", "daily", "weekly", "monthly"]
ChangeId = Annotated[int, Field(ge=0, le=CHANGE_ID_MAX)]


class TaskNew(Body):
    """`POST /tasks`."""

    bundle: Bundle
    granularity: Granularity
    target_date: Day
    change_id: ChangeId
    id: HexId = left_out()
    task_status: TaskStatus = left_out()
    s3_keys: S3Keys = left_out()
    team_id: SerialId | None = None

    def new(self) -> NewTask:
        return cast(NewTask, self.given())


class TasksNew(Body):
    """`POST /tasks/bulk`."""

    values_max = BULK_VALUES_MAX

    items: Annotated[list[TaskNew], Field(min_length=1, max_length=BULK_MAX)]
    _new: list[NewTask] = PrivateAttr(default_factory=list)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """As `Body.read`, an item at a time: the interpreter is given up in between, and what is behind the
        last fault that is listed is not read. What `new` returns is all that is kept of the items: models are
        three objects each, which the garbage collector would go through.
        """
        new: list[NewTask] = []
        faults: list[tuple[Path, str]] = []
        fields: dict[str, Any] = {}
        ids: set[str] = set()
        for path, value in parse_pieces(body, "items"):
            if not path:
                return check(cls, value)
            if len(path) == 1:
                fields[str(path[0])] = value
                if len(fields) > NAMES_MAX:
                    raise refusal([TOO_MANY_FIELDS])
                continue
            if path[1] == BULK_MAX:
                faults.append((path[:1], f"should have at most {BULK_MAX} items"))
                break
            item, found = examined(TaskNew, value)
            faults += [((*path, *steps), message) for steps, message in found]
            if item is not None:
                new.append(item.new())
            task_id = value.get("id") if isinstance(value, dict) else None
            if isinstance(task_id, str):
                if task_id in ids:  # it could be created but once
                    faults.append(((*path, "id"), TWICE_IN_BULK))
                ids.add(task_id)
            if len(faults) > FAULTS_MAX:
                break
        if not new and not faults:
            return check(cls, fields)
        faults += [((name,), UNKNOWN_FIELD) for name in fields]
        if faults:
            raise refusal(faults)
        bulk = cls.model_construct(items=[])
        bulk._new = new
        return bulk  # type: ignore[return-value]  # pydantic's plugin does not know Self

    def new(self) -> list[NewTask]:
        return self._new


class Claim(Body):
    """`POST /tasks/claim`."""

    limit: Annotated[int, Field(ge=1, le=CLAIM_MAX)]
    team_id: SerialId | None = None


class TaskChange(Body):
    """`PATCH /tasks/{id}`."""

    task_status: TaskStatus = left_out()
    s3_keys: S3Keys = left_out()
    bundle: Bundle = left_out()
    granularity: Granularity = left_out()
    target_date: Day = left_out()
    change_id: ChangeId = left_out()

    def change(self) -> Change:
        return cast(Change, self.given())
