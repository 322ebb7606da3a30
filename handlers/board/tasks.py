"""Tasks over HTTP."""

from __future__ import annotations

from db.board import tasks, transfers
from db.board.tasks import Position
from handlers.base import SessionHandler
from handlers.board.cursors import cursor_of, position_of
from handlers.board.pages import write_items
from handlers.board.preconditions import etag_of, if_match
from handlers.board.responses import listed_json, task_json, transfer_json
from handlers.idempotency import IdempotentHandler
from handlers.json_api.body import Claim, TaskChange, TaskNew, TasksNew, TransferNew, read_body
from handlers.json_api.query import TaskQuery, read_query
from handlers.json_api.security_headers import REVALIDATED


class TasksHandler(IdempotentHandler):
    """``/tasks``. Lives as long as one attempt at a request, as every handler here."""

    async def get(self) -> None:
        query = read_query(self, TaskQuery)
        where = query.where()
        after = None if query.cursor is None else position_of(query.cursor, where)
        # One more than asked for tells whether there is another page.
        rows = await self.run(tasks.list_tasks, self.session, where=where, limit=query.limit + 1, after=after)
        page = tasks.page_of(rows, query.limit)
        more = len(rows) > len(page)
        next_cursor = cursor_of(Position(page[-1].create_time, page[-1].id), where) if more else None
        await write_items(self, map(listed_json, page), next_cursor=next_cursor)

    async def post(self) -> None:
        new = await read_body(self, TaskNew)
        task = await self.run(tasks.create_task, self.session, new=new.new())
        self.set_header("Location", f"{self.request.path}/{task.id}")
        self.set_header("ETag", etag_of(task))
        self.write_json(task_json(task), 201)


class TaskHandler(SessionHandler):
    """``/tasks/{id}``."""

    async def get(self, task_id: str) -> None:
        task = await self.run(tasks.get_task, self.session, task_id=task_id)
        self.set_header("ETag", etag_of(task))
        self.set_header("Cache-Control", REVALIDATED)
        if self.check_etag_header():
            self.set_status(304)
        else:
            self.write_json(task_json(task))

    async def patch(self, task_id: str) -> None:
        change = (await read_body(self, TaskChange)).change()
        task = await self.run(
            tasks.update_task, self.session, task_id=task_id, change=change, expected=if_match(self)
        )
        self.set_header("ETag", etag_of(task))
        self.write_json(task_json(task))

    async def delete(self, task_id: str) -> None:
        await self.run(tasks.delete_task, self.session, task_id=task_id, expected=if_match(self))
        self.set_status(204)


class BulkHandler(IdempotentHandler):
    """``/tasks/bulk``."""

    body_max_bytes = None
    # Each is read by a thread that works all the time, and its tasks are held until they are written.
    large_bodies_at_once = 2

    async def post(self) -> None:
        bulk = await read_body(self, TasksNew)
        ids = await self.run(tasks.create_tasks, self.session, new=bulk.new())
        self.write_json({"created": len(ids), "ids": ids}, 201)


class ClaimHandler(IdempotentHandler):
    """``/tasks/claim``."""

    async def post(self) -> None:
        claim = await read_body(self, Claim)
        taken = await self.run(tasks.claim_tasks, self.session, limit=claim.limit, team_id=claim.team_id)
        await write_items(self, map(listed_json, taken))


class TransferHandler(IdempotentHandler):
    """``/tasks/{id}/transfer``."""

    async def post(self, task_id: str) -> None:
        move = await read_body(self, TransferNew)
        task, transfer = await self.run(transfers.transfer_task, self.session, task_id=task_id, **dict(move))
        self.write_json({"task": task_json(task), "transfer": transfer_json(transfer)})


class TransfersHandler(SessionHandler):
    """``/tasks/{id}/transfers``."""

    async def get(self, task_id: str) -> None:
        log = await self.run(transfers.list_transfers, self.session, task_id=task_id)
        self.write_json({"items": [transfer_json(transfer) for transfer in log]})
