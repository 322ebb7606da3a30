"""Tasks over HTTP."""

from __future__ import annotations

from tornado.routing import URLSpec

from db.board import tasks
from db.board.tasks import CANCELLED, FAILED, PASSED, QUEUED, RUNNING, Position
from db.errors import Conflict, Invalid, NotFound, PreconditionFailed
from handlers.board import examples
from handlers.board.cursors import FOREIGN, cursor_of, position_of
from handlers.board.pages import write_items
from handlers.board.queries import TaskQuery
from handlers.board.requests import (
    BULK_MAX,
    BULK_VALUES_MAX,
    TWICE_IN_BULK,
    Claim,
    TaskChange,
    TaskNew,
    TasksNew,
)
from handlers.board.responses import (
    Task,
    TaskList,
    TaskPage,
    TasksCreated,
    etag_of,
    listed_json,
    task_json,
)
from handlers.idempotency import IdempotentHandler
from handlers.json_api.api import ApiHandler
from handlers.json_api.body import UNKNOWN_FIELD
from handlers.json_api.errors import FAULTS_MAX
from handlers.json_api.fields import HEX_ID, HEX_ID_GROUP
from handlers.json_api.json_text import PIECE_CHARS_MAX
from handlers.json_api.preconditions import if_match
from handlers.json_api.security_headers import REVALIDATED
from handlers.lifecycle.errors import Problem
from handlers.openapi.operation import (
    Answer,
    Limits,
    PathParameter,
    Tag,
    body_faults,
    operation,
    revalidated,
    size_of,
)

TASKS = Tag("tasks", "What there is to check.")
TASK_ID = PathParameter("task_id", "The task's id.", {"type": "string", "pattern": HEX_ID}, examples.TASK_ID)
NO_TASK = NotFound("task", examples.TASK_ID)
_ID_TAKEN = Conflict("a task with this id exists already")
_CHANGED = PreconditionFailed("the task has changed since")
_NO_SUCH_TEAM = "there is no such team"

LARGE_BULKS_AT_ONCE = 2
"""Each is read by a thread that works all the time, and its tasks are held until they are written."""


def _about_bulk(limits: Limits) -> str:
    return (
        f"A body has at most {size_of(limits.http.body_max_bytes)} (`http.body_max_bytes`) and "
        f"{BULK_VALUES_MAX:,} values, a task at most {size_of(PIECE_CHARS_MAX)}; else 413. Of the faults the "
        f"first {FAULTS_MAX:,} are listed. Large bodies are worked on by {LARGE_BULKS_AT_ONCE} requests at a "
        "time in a process."
    )


class TasksHandler(IdempotentHandler, ApiHandler):
    """``/tasks``. Lives as long as one attempt at a request, as every handler here."""

    refused_early = True

    @operation(
        name="list_tasks",
        tag=TASKS,
        summary="Tasks, newest first, a page at a time",
        description="A walk by cursor shows every task that was there when it began, and was not deleted, "
        "exactly once, whatever others insert meanwhile. A page of tasks with large "
        "`s3_keys` has fewer than `limit`: it ends at about 4 MiB of them. The list ends where `next_cursor` "
        "is null.",
        answers=(Answer(200, "A page of tasks.", TaskPage, examples.PAGE),),
        errors=(Problem(400, FOREIGN),),
    )
    async def get(self, query: TaskQuery) -> None:
        where = query.where()
        after = None if query.cursor is None else position_of(query.cursor, where)
        # One more than was asked for: whether there is another page.
        rows = await self.run(tasks.list_tasks, self.session, where=where, limit=query.limit + 1, after=after)
        page = tasks.page_of(rows, query.limit)
        more = len(rows) > len(page)
        next_cursor = cursor_of(Position(page[-1].create_time, page[-1].id), where) if more else None
        await write_items(self, map(listed_json, page), next_cursor=next_cursor)

    @operation(
        name="create_task",
        tag=TASKS,
        summary="Add a task",
        body_examples={"with what is required": examples.NEW_TASK, "with everything": examples.WHOLE_TASK},
        answers=(
            Answer(201, "The task.", Task, examples.TASK, headers=("Location", "ETag"), made="task_id"),
        ),
        errors=(
            _ID_TAKEN,
            body_faults(("granularity", "is required")),
            Invalid(_NO_SUCH_TEAM, pointer="/team_id"),
        ),
    )
    async def post(self, new: TaskNew) -> None:
        task = await self.run(tasks.create_task, self.session, new=new.new())
        self.set_header("Location", f"{self.request.path}/{task.id}")
        self.set_header("ETag", etag_of(task))
        self.write_json(task_json(task), 201)


class TaskHandler(ApiHandler):
    """``/tasks/{id}``."""

    refused_early = True

    @operation(
        name="get_task",
        tag=TASKS,
        summary="A task",
        path_parameters=(TASK_ID,),
        answers=revalidated("The task.", Task, examples.TASK),
        errors=(NO_TASK,),
    )
    async def get(self, task_id: str) -> None:
        task = await self.run(tasks.get_task, self.session, task_id=task_id)
        self.set_header("ETag", etag_of(task))
        self.set_header("Cache-Control", REVALIDATED)
        if self.check_etag_header():
            self.set_status(304)
        else:
            self.write_json(task_json(task))

    @operation(
        name="update_task",
        tag=TASKS,
        summary="Change some fields of a task",
        description=f"A status goes from {QUEUED} to {RUNNING} or {CANCELLED}, and from {RUNNING} to "
        f"{PASSED}, {FAILED}, {QUEUED} or {CANCELLED}. What finds everything as it should be is 200 too, and "
        "moves neither `version` nor `update_time`.",
        path_parameters=(TASK_ID,),
        body_examples={
            "begin": {"task_status": RUNNING},
            "move to another day": {"target_date": "2020-04-02"},
        },
        headers=("If-Match",),
        answers=(Answer(200, "The task as it is now.", Task, examples.RUNNING_TASK, headers=("ETag",)),),
        errors=(
            _CHANGED,
            NO_TASK,
            Conflict(f"a task cannot go from status {QUEUED} to {PASSED}"),
            body_faults(("team_id", UNKNOWN_FIELD)),
        ),
    )
    async def patch(self, task_id: str, given: TaskChange) -> None:
        change = given.change()
        expected = if_match(self, etag_of)
        task = await self.run(
            tasks.update_task, self.session, task_id=task_id, change=change, expected=expected
        )
        self.set_header("ETag", etag_of(task))
        self.write_json(task_json(task))

    @operation(
        name="delete_task",
        tag=TASKS,
        summary="Take a task away, and its log with it",
        path_parameters=(TASK_ID,),
        headers=("If-Match",),
        answers=(Answer(204, "It is gone."),),
        errors=(_CHANGED, NO_TASK),
    )
    async def delete(self, task_id: str) -> None:
        expected = if_match(self, etag_of)
        await self.run(tasks.delete_task, self.session, task_id=task_id, expected=expected)
        self.set_status(204)


class BulkHandler(IdempotentHandler, ApiHandler):
    """``/tasks/bulk``."""

    refused_early = True

    executor = "threads"  # ten thousand rows take a second of Python

    body_max_bytes = None
    large_bodies_at_once = LARGE_BULKS_AT_ONCE

    @operation(
        name="create_tasks",
        tag=TASKS,
        summary=f"Add up to {BULK_MAX:,} tasks: all of them, or none",
        description=_about_bulk,
        body_examples={"two tasks": {"items": [examples.NEW_TASK, examples.WHOLE_TASK]}},
        answers=(Answer(201, "They were all added.", TasksCreated, examples.CREATED),),
        errors=(
            _ID_TAKEN,
            body_faults(("items/3/bundle", "is required"), ("items/7/id", TWICE_IN_BULK)),
            Invalid(_NO_SUCH_TEAM, pointer="/items/3/team_id"),
        ),
    )
    async def post(self, bulk: TasksNew) -> None:
        ids = await self.run(tasks.create_tasks, self.session, new=bulk.new())
        self.write_json({"created": len(ids), "ids": ids}, 201)


class ClaimHandler(IdempotentHandler, ApiHandler):
    """``/tasks/claim``."""

    refused_early = True

    @operation(
        name="claim_tasks",
        tag=TASKS,
        summary="Take the oldest queued tasks, which are running from then on",
        description="No task is given to two callers, unless it was put back to 101 in between.",
        body_examples={"of any team": {"limit": 10}, "of one team": {"limit": 10, "team_id": 1}},
        answers=(
            Answer(200, "The tasks, oldest first; none where none is queued.", TaskList, examples.CLAIMED),
        ),
        errors=(body_faults(("limit", "should be greater than or equal to 1")),),
    )
    async def post(self, claim: Claim) -> None:
        taken = await self.run(tasks.claim_tasks, self.session, limit=claim.limit, team_id=claim.team_id)
        await write_items(self, map(listed_json, taken))


ROUTES = (
    URLSpec("/tasks", TasksHandler, name="tasks"),
    URLSpec("/tasks/bulk", BulkHandler, name="bulk"),
    URLSpec("/tasks/claim", ClaimHandler, name="claim"),
    URLSpec(f"/tasks/{HEX_ID_GROUP}", TaskHandler, name="task"),
)
