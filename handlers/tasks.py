"""Tasks over HTTP."""

from __future__ import annotations

from db import tasks, transfers
from db.tasks import Position
from handlers.answers import task_json, transfer_json
from handlers.base import SessionHandler
from handlers.bodies import TaskChange, TaskNew, TransferNew, read_body
from handlers.cursors import cursor_of, position_of
from handlers.idempotency import IdempotentHandler
from handlers.queries import TaskQuery, read_query


class TasksHandler(IdempotentHandler):
    """``/tasks``. Lives as long as one attempt at a request, as every handler here."""

    async def get(self) -> None:
        query = read_query(self, TaskQuery)
        where = query.where()
        after = None if query.cursor is None else position_of(query.cursor, where)
        # One more than asked for tells whether there is another page.
        rows = await self.run(tasks.list_tasks, self.session, where=where, limit=query.limit + 1, after=after)
        page = rows[: query.limit]
        more = len(rows) > len(page)
        next_cursor = cursor_of(Position(page[-1].create_time, page[-1].id), where) if more else None
        self.write_json({"items": [task_json(task) for task in page], "next_cursor": next_cursor})

    async def post(self) -> None:
        new = read_body(self, TaskNew)
        task = await self.run(tasks.create_task, self.session, new=new.new())
        self.set_header("Location", f"{self.request.path}/{task.id}")
        self.write_json(task_json(task), 201)


class TaskHandler(SessionHandler):
    """``/tasks/{id}``."""

    async def get(self, task_id: str) -> None:
        task = await self.run(tasks.get_task, self.session, task_id=task_id)
        self.write_json(task_json(task))

    async def patch(self, task_id: str) -> None:
        change = read_body(self, TaskChange)
        task = await self.run(tasks.update_task, self.session, task_id=task_id, change=change.change())
        self.write_json(task_json(task))

    async def delete(self, task_id: str) -> None:
        await self.run(tasks.delete_task, self.session, task_id=task_id)
        self.set_status(204)


class TransferHandler(IdempotentHandler):
    """``/tasks/{id}/transfer``."""

    async def post(self, task_id: str) -> None:
        move = read_body(self, TransferNew)
        task, transfer = await self.run(transfers.transfer_task, self.session, task_id=task_id, **dict(move))
        self.write_json({"task": task_json(task), "transfer": transfer_json(transfer)})


class TransfersHandler(SessionHandler):
    """``/tasks/{id}/transfers``."""

    async def get(self, task_id: str) -> None:
        log = await self.run(transfers.list_transfers, self.session, task_id=task_id)
        self.write_json({"items": [transfer_json(transfer) for transfer in log]})
