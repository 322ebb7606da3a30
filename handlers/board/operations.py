"""Every call of the board: the table that the document at ``/openapi.json`` is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from db.errors import Conflict, Invalid, NotFound, PoolTimeout
from handlers.board import examples, responses as answers
from handlers.json_api import body as bodies, query as queries
from handlers.json_api.errors import Problem
from handlers.openapi.operation import Answer, Operation

_NO_TASK = NotFound("task", examples.TASK_ID)
_NO_TEAM = NotFound("team", 1)
_NAME_TAKEN = Conflict("a team with this name exists already")
_ID_TAKEN = Conflict("a task with this id exists already")
_NOT_FOR_STRANGERS = Problem(404, "Not Found")
_FOR_OPERATORS = (
    "At `ops.port` on loopback, and nowhere else, where that is set. Elsewhere here, except in production: "
    "for callers on loopback that no proxy stands before; to all others it is not there."
)
_FOREIGN_CURSOR = Problem(400, "the cursor belongs to a list with other filters: start again without it")


def _faults(*faults: tuple[str, str]) -> Problem:
    return bodies.refusal([(tuple(path.split("/")), message) for path, message in faults])


def _shown(description: str, model: Any, example: Any) -> tuple[Answer, ...]:
    return (Answer(status=200, description=description, model=model, example=example),)


def _tagged(description: str, model: Any, example: Any) -> tuple[Answer, ...]:
    """What a GET answers that a client may keep."""
    unchanged = "What the client has, as `If-None-Match` says, is still right."
    return (
        Answer(status=200, description=description, model=model, example=example, headers=_TAGGED),
        Answer(status=304, description=unchanged, headers=_TAGGED),
    )


def _done(
    status: int, description: str, model: Any, example: Any, headers: Mapping[str, bool]
) -> tuple[Answer, ...]:
    return (Answer(status=status, description=description, model=model, example=example, headers=headers),)


_MADE = {"Location": True}
_TAGGED = {"ETag": True}
_REPEATED = {"Idempotency-Replayed": False}
_REVALIDATING = ("If-None-Match",)
_REPEATABLE = ("Idempotency-Key",)
_REQUIRED = ("granularity", "is required")
_NO_SUCH_TEAM = "there is no such team"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="get",
        path="/tasks",
        name="list_tasks",
        tag="tasks",
        summary="Tasks, newest first, a page at a time",
        description="A walk by cursor shows every task that was there when it began, and was not deleted, "
        "exactly once, whatever others insert meanwhile. A page of tasks with large `s3_keys` has fewer than "
        "`limit`: it ends at about 4 MiB of them. The list ends where `next_cursor` is null.",
        query=queries.TaskQuery,
        answers=_shown("A page of tasks.", answers.TaskPage, examples.PAGE),
        refuses=(_FOREIGN_CURSOR,),
    ),
    Operation(
        method="post",
        path="/tasks",
        name="create_task",
        tag="tasks",
        summary="Add a task",
        body=bodies.TaskNew,
        body_examples={"with what is required": examples.NEW_TASK, "with everything": examples.WHOLE_TASK},
        headers=_REPEATABLE,
        answers=_done(201, "The task.", answers.Task, examples.TASK, _MADE | {"ETag": True} | _REPEATED),
        refuses=(_ID_TAKEN, _faults(_REQUIRED), Invalid(_NO_SUCH_TEAM, pointer="/team_id")),
    ),
    Operation(
        method="post",
        path="/tasks/bulk",
        name="create_tasks",
        tag="tasks",
        summary="Add up to 10,000 tasks: all of them, or none",
        description="A body has at most `http.body_max_bytes` and 500,000 values, a task at most 1 MiB; else "
        "413. Of the faults the first 1,000 are listed. Two large ones run at a time in a process.",
        body=bodies.TasksNew,
        body_examples={"two tasks": {"items": [examples.NEW_TASK, examples.WHOLE_TASK]}},
        headers=_REPEATABLE,
        answers=_done(201, "They were all added.", answers.TasksCreated, examples.CREATED, _REPEATED),
        refuses=(
            _ID_TAKEN,
            _faults(("items/3/bundle", "is required"), ("items/7/id", "stands in this bulk more than once")),
            Invalid(_NO_SUCH_TEAM, pointer="/items/3/team_id"),
        ),
    ),
    Operation(
        method="post",
        path="/tasks/claim",
        name="claim_tasks",
        tag="tasks",
        summary="Take the oldest queued tasks, which are running from then on",
        description="No task is given to two callers, unless it was put back to 101 in between.",
        body=bodies.Claim,
        body_examples={"of any team": {"limit": 10}, "of one team": {"limit": 10, "team_id": 1}},
        headers=_REPEATABLE,
        answers=_done(
            200,
            "The tasks, oldest first; none where none is queued.",
            answers.TaskList,
            examples.CLAIMED,
            _REPEATED,
        ),
        refuses=(_faults(("limit", "should be greater than or equal to 1")),),
    ),
    Operation(
        method="get",
        path="/tasks/export",
        name="export_tasks",
        tag="tasks",
        summary="Every task as a line of JSON, in the order of the ids, from one snapshot",
        description="Streamed. A failure midway breaks the connection: what ends as it should is complete. "
        "Few may run at once (`http.exports_max`), the next is 503.",
        query=queries.TaskChoice,
        answers=(
            Answer(
                status=200,
                description="Lines of JSON, a `Task` each.",
                model=str,
                example=examples.LINES,
                media_type="application/x-ndjson",
            ),
        ),
        refuses=(PoolTimeout("2 exports are running, which is as many as may", retry_after_s=10),),
    ),
    Operation(
        method="get",
        path="/tasks/{task_id}",
        name="get_task",
        tag="tasks",
        summary="A task",
        headers=_REVALIDATING,
        answers=_tagged("The task.", answers.Task, examples.TASK),
        refuses=(_NO_TASK,),
    ),
    Operation(
        method="patch",
        path="/tasks/{task_id}",
        name="update_task",
        tag="tasks",
        summary="Change some fields of a task",
        description="A status goes from 101 to 102 or 99, and from 102 to 200, 400, 101 or 99. What finds "
        "everything as it should be is 200 too, and moves neither `version` nor `update_time`.",
        body=bodies.TaskChange,
        body_examples={"begin": {"task_status": 102}, "move to another day": {"target_date": "2020-04-02"}},
        headers=("If-Match",),
        answers=_done(200, "The task as it is now.", answers.Task, examples.RUNNING_TASK, _TAGGED),
        refuses=(
            _NO_TASK,
            Conflict("a task cannot go from status 101 to 200"),
            _faults(("team_id", "is not a field of this body")),
        ),
    ),
    Operation(
        method="delete",
        path="/tasks/{task_id}",
        name="delete_task",
        tag="tasks",
        summary="Take a task away, and its log with it",
        headers=("If-Match",),
        answers=(Answer(status=204, description="It is gone."),),
        refuses=(_NO_TASK,),
    ),
    Operation(
        method="post",
        path="/tasks/{task_id}/transfer",
        name="transfer_task",
        tag="transfers",
        summary="Move a task from one team to another, and write that into its log",
        description="Both, or neither. null is no team.",
        body=bodies.TransferNew,
        body_examples={"to its first team": examples.TRANSFER_NEW},
        headers=_REPEATABLE,
        answers=_done(200, "It has moved.", answers.Transferred, examples.TRANSFERRED, _REPEATED),
        refuses=(
            _NO_TASK,
            Conflict("the task is in team 2, not with no team"),
            Invalid("a transfer goes from one team to another", pointer="/to_team_id"),
            Invalid(_NO_SUCH_TEAM, pointer="/to_team_id"),
        ),
    ),
    Operation(
        method="get",
        path="/tasks/{task_id}/transfers",
        name="list_transfers",
        tag="transfers",
        summary="The log of a task, oldest first",
        answers=_shown("Where it went, line by line.", answers.TransferList, {"items": [examples.TRANSFER]}),
        refuses=(_NO_TASK,),
    ),
    Operation(
        method="get",
        path="/teams",
        name="list_teams",
        tag="teams",
        summary="All teams, oldest first",
        answers=_shown("The teams.", answers.TeamList, {"items": [examples.TEAM]}),
    ),
    Operation(
        method="post",
        path="/teams",
        name="create_team",
        tag="teams",
        summary="Add a team",
        body=bodies.TeamNew,
        body_examples={"a team": {"name": "Store QA"}},
        headers=_REPEATABLE,
        answers=_done(201, "The team.", answers.Team, examples.TEAM, _MADE | _REPEATED),
        refuses=(_NAME_TAKEN, _faults(("name", "should have at most 64 characters"))),
    ),
    Operation(
        method="get",
        path="/teams/{team_id}",
        name="get_team",
        tag="teams",
        summary="A team",
        answers=_shown("The team.", answers.Team, examples.TEAM),
        refuses=(_NO_TEAM,),
    ),
    Operation(
        method="patch",
        path="/teams/{team_id}",
        name="update_team",
        tag="teams",
        summary="Rename a team",
        body=bodies.TeamChange,
        body_examples={"another name": {"name": "Store and Basket QA"}},
        answers=(
            Answer(
                status=200,
                description="The team as it is now.",
                model=answers.Team,
                example=examples.TEAM | {"name": "Store and Basket QA"},
            ),
        ),
        refuses=(_NO_TEAM, _NAME_TAKEN, _faults(("name", "should have at most 64 characters"))),
    ),
    Operation(
        method="delete",
        path="/teams/{team_id}",
        name="delete_team",
        tag="teams",
        summary="Take a team away that has no tasks",
        answers=(Answer(status=204, description="It is gone."),),
        refuses=(_NO_TEAM, Conflict("the team still has tasks: transfer or delete them first")),
    ),
    Operation(
        method="get",
        path="/livez",
        name="get_liveness",
        tag="operation",
        summary="Whether the process runs; touches no database",
        answers=_shown("It does.", answers.Alive, {"status": "alive"}),
        session=False,
    ),
    Operation(
        method="get",
        path="/readyz",
        name="get_readiness",
        tag="operation",
        summary="Whether requests should be sent here",
        answers=(
            *_shown("They may be.", answers.Ready, {"status": "ready"}),
            Answer(
                status=503,
                description="They had better not: the database is unreachable, its schema is behind, or the "
                "service is shutting down.",
                model=answers.NotReady,
                example={"status": "not ready", "reason": "draining: the service is shutting down"},
                headers={"Retry-After": True},
            ),
        ),
        session=False,
    ),
    Operation(
        method="get",
        path="/openapi.json",
        name="get_openapi",
        tag="operation",
        summary="This document",
        headers=_REVALIDATING,
        answers=_tagged(
            "OpenAPI 3.1.",
            dict[str, Any],
            {"openapi": "3.1.1", "info": {"title": "onfinish", "version": "0.1.0"}, "paths": {}},
        ),
        session=False,
    ),
    Operation(
        method="get",
        path="/metrics",
        name="get_metrics",
        tag="operation",
        summary="What a Prometheus server collects",
        description=_FOR_OPERATORS,
        answers=(
            Answer(
                status=200,
                description="Prometheus' text format, names as OpenTelemetry has them.",
                model=str,
                example=examples.METRICS,
                media_type="text/plain",
            ),
        ),
        refuses=(_NOT_FOR_STRANGERS,),
        session=False,
    ),
    Operation(
        method="get",
        path="/stats",
        name="get_stats",
        tag="operation",
        summary="What each process is doing: pools, places, open units of work",
        description=_FOR_OPERATORS,
        answers=_shown("Process by process.", answers.Stats, examples.STATS),
        refuses=(_NOT_FOR_STRANGERS,),
        session=False,
    ),
)
"""Every call. HEAD and OPTIONS are no lines of their own: each path answers OPTIONS, and HEAD where GET."""
