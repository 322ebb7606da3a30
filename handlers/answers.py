"""Answers: what is told of a task, a team and a transfer. Made while the request's session is open."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row

from db.tasks import Task
from db.teams import Team
from db.transfers import Transfer

Answer = dict[str, Any]


def time_text(moment: datetime) -> str:
    """A moment in UTC as RFC 3339: ``2020-06-03T10:45:00.287701Z``, without a fraction that is zero."""
    return moment.isoformat().removesuffix("+00:00") + "Z"


def task_json(task: Task | Row[Any]) -> Answer:
    return {
        "id": task.id,
        "task_status": task.task_status,
        "s3_keys": task.s3_keys,
        "bundle": task.bundle,
        "granularity": task.granularity,
        "target_date": task.target_date.isoformat(),
        "change_id": task.change_id,
        "team_id": task.team_id,
        "version": task.version,
        "create_time": time_text(task.create_time),
        "update_time": time_text(task.update_time),
    }


def team_json(team: Team) -> Answer:
    return {"id": team.id, "name": team.name, "create_time": time_text(team.create_time)}


def transfer_json(transfer: Transfer) -> Answer:
    return {
        "id": transfer.id,
        "task_id": transfer.task_id,
        "from_team_id": transfer.from_team_id,
        "to_team_id": transfer.to_team_id,
        "note": transfer.note,
        "create_time": time_text(transfer.create_time),
    }
