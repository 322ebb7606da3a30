"""Transfers over HTTP: tasks that move between teams, and the log of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, with_config
from tornado.routing import URLSpec
from typing_extensions import TypedDict  # typing's own is enough for pydantic from Python 3.12 on

from db.board import transfers
from db.errors import Conflict, Invalid
from handlers.board import examples
from handlers.board.responses import Task, task_json
from handlers.board.tasks import NO_TASK, TASK_ID
from handlers.idempotency import IdempotentHandler
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import Body
from handlers.json_api.errors import CLOSED
from handlers.json_api.fields import HEX_ID_GROUP, NO_NUL, HexId, Moment, SerialId
from handlers.openapi.operation import Answer, Tag, operation

Note = Annotated[str, Field(max_length=transfers.NOTE_CHARS_MAX, pattern=NO_NUL)]


class TransferNew(Body):
    """`POST /tasks/{id}/transfer`. Both teams have to be given, null for no team."""

    from_team_id: SerialId | None
    to_team_id: SerialId | None
    note: Note | None = None


@with_config(CLOSED)
class Transfer(TypedDict):
    """A line in a task's log: where it went. The teams may be gone since."""

    id: SerialId
    task_id: HexId
    from_team_id: SerialId | None
    to_team_id: SerialId | None
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


def transfer_json(transfer: transfers.Transfer) -> dict[str, Any]:
    """A `Transfer`, once `write_json` has written its moment."""
    return {
        "id": transfer.id,
        "task_id": transfer.task_id,
        "from_team_id": transfer.from_team_id,
        "to_team_id": transfer.to_team_id,
        "note": transfer.note,
        "create_time": transfer.create_time,
    }


TRANSFERS = Tag("transfers", "Tasks that move between teams, and the log of it.")
_NEW: dict[str, Any] = {"from_team_id": None, "to_team_id": 1, "note": "first look"}
_LINE: Transfer = {
    "id": 1,
    "task_id": examples.TASK_ID,
    "from_team_id": None,
    "to_team_id": 1,
    "note": "first look",
    "create_time": "2020-06-03T10:46:12.001304Z",
}
_DONE: Transferred = {
    "task": {**examples.TASK, "team_id": 1, **examples.LATER},  # type: ignore[typeddict-item]
    "transfer": _LINE,
}


class TransferHandler(IdempotentHandler, ApiHandler):
    """``/tasks/{id}/transfer``. Lives as long as one attempt at a request, as every handler here."""

    refused_early = True

    @operation(
        name="transfer_task",
        tag=TRANSFERS,
        summary="Move a task from one team to another, and write that into its log",
        description="Both, or neither. null is no team.",
        path_parameters=(TASK_ID,),
        body_examples={"to its first team": _NEW},
        answers=(Answer(200, "It has moved.", Transferred, _DONE),),
        errors=(
            NO_TASK,
            Conflict("the task is in team 2, not with no team"),
            Invalid("a transfer goes from one team to another", pointer="/to_team_id"),
            Invalid("there is no such team", pointer="/to_team_id"),
        ),
    )
    async def post(self, task_id: str, move: TransferNew) -> None:
        task, transfer = await self.run(transfers.transfer_task, self.session, task_id=task_id, **dict(move))
        self.write_json({"task": task_json(task), "transfer": transfer_json(transfer)})


class TransfersHandler(ApiHandler):
    """``/tasks/{id}/transfers``."""

    refused_early = True

    @operation(
        name="list_transfers",
        tag=TRANSFERS,
        summary="The log of a task, oldest first",
        path_parameters=(TASK_ID,),
        answers=(Answer(200, "Where it went, line by line.", TransferList, {"items": [_LINE]}),),
        errors=(NO_TASK,),
    )
    async def get(self, task_id: str) -> None:
        log = await self.run(transfers.list_transfers, self.session, task_id=task_id)
        self.write_json({"items": [transfer_json(transfer) for transfer in log]})


ROUTES = (
    URLSpec(f"/tasks/{HEX_ID_GROUP}/transfer", TransferHandler, name="transfer"),
    URLSpec(f"/tasks/{HEX_ID_GROUP}/transfers", TransfersHandler, name="transfers"),
)
