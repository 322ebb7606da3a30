"""The board as a few dictionaries: what each request answers, and what is in the database then."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.fixtures.databases import RawSql

QUEUED, RUNNING = 101, 102
NEXT = {101: {102, 99}, 102: {200, 400, 101, 99}}
TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01"}


class Task(NamedTuple):
    """What of a task is compared."""

    status: int
    team_id: int | None
    change_id: int
    version: int


@dataclass(frozen=True)
class Ask:
    """A request. Frozen, so that it can be sent again."""

    method: str
    path: str
    body: str = ""
    key: str | None = None

    @property
    def json(self) -> Any:
        """Its body, decoded."""
        return json.loads(self.body)


@dataclass
class Board:
    """What the database has to hold. Lives until the next request, which makes another one of it."""

    teams: tuple[int, ...] = ()
    tasks: dict[str, Task] = field(default_factory=dict)  # in the order in which they were made
    transfers: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    keys: dict[tuple[str, str], tuple[str, int, bytes | None]] = field(default_factory=dict)

    def answer(self, ask: Ask) -> tuple[int, Board]:
        """The status that answers a request on this board, and the board as it is then."""
        if ask.key is not None and (kept := self.keys.get((ask.path, ask.key))):
            return (kept[1] if kept[0] == fingerprint(ask) else 422), self
        after = copy.deepcopy(self)
        status = after._do(ask)
        if status >= 400:
            return status, self
        if ask.key is not None:
            after.keys[ask.path, ask.key] = (fingerprint(ask), status, None)
        return status, after

    def _do(self, ask: Ask) -> int:
        parts = ask.path.strip("/").split("/")
        if ask.path == "/tasks":
            return self._create([ask.json])
        if ask.path == "/tasks/bulk":
            return self._create(ask.json["items"])
        if ask.path == "/tasks/claim":
            return self._claim(**ask.json)
        if parts[-1] == "transfer":
            return self._transfer(parts[1], **ask.json)
        if ask.method == "PATCH":
            return self._patch(parts[1], **ask.json)
        return self._delete(parts[1])

    def _create(self, items: list[dict[str, Any]]) -> int:
        ids = [item["id"] for item in items]
        if len(set(ids)) < len(ids) or not self._are_teams(*(item.get("team_id") for item in items)):
            return 422
        if any(task_id in self.tasks for task_id in ids):
            return 409
        for item in sorted(items, key=lambda item: str(item["id"])):
            self.tasks[item["id"]] = Task(QUEUED, item.get("team_id"), item["change_id"], 1)
        return 201

    def _claim(self, limit: int, team_id: int | None = None) -> int:
        queued = [
            task_id
            for task_id, task in self.tasks.items()
            if task.status == QUEUED and team_id in (None, task.team_id)
        ]
        for task_id in queued[:limit]:
            task = self.tasks[task_id]
            self.tasks[task_id] = task._replace(status=RUNNING, version=task.version + 1)
        return 200

    def _transfer(self, task_id: str, from_team_id: int | None, to_team_id: int | None) -> int:
        if from_team_id == to_team_id:
            return 422
        task = self.tasks.get(task_id)
        if task is None:
            return 404
        if not self._are_teams(from_team_id, to_team_id):
            return 422
        if task.team_id != from_team_id:
            return 409
        self.tasks[task_id] = task._replace(team_id=to_team_id, version=task.version + 1)
        self.transfers.append((task_id, from_team_id, to_team_id))
        return 200

    def _patch(self, task_id: str, task_status: int | None = None, change_id: int | None = None) -> int:
        task = self.tasks.get(task_id)
        if task is None:
            return 404
        status = task.status if task_status is None else task_status
        if status != task.status and status not in NEXT.get(task.status, ()):
            return 409
        changed = task._replace(status=status, change_id=task.change_id if change_id is None else change_id)
        if changed != task:
            self.tasks[task_id] = changed._replace(version=task.version + 1)
        return 200

    def _delete(self, task_id: str) -> int:
        if self.tasks.pop(task_id, None) is None:
            return 404
        self.transfers = [line for line in self.transfers if line[0] != task_id]
        return 204

    def _are_teams(self, *team_ids: int | None) -> bool:
        return all(team_id is None or team_id in self.teams for team_id in team_ids)

    def differs_from(self, other: Board) -> str | None:
        """What is different there, in words. Of a key's answer only what is known is compared."""
        if self.tasks != other.tasks:
            return f"tasks: {self.tasks} and {other.tasks}"
        if self.transfers != other.transfers:
            return f"transfers: {self.transfers} and {other.transfers}"
        if self.keys.keys() != other.keys.keys():
            return f"keys: {sorted(self.keys)} and {sorted(other.keys)}"
        for key, (mark, status, body) in self.keys.items():
            their_mark, their_status, their_body = other.keys[key]
            if (mark, status) != (their_mark, their_status) or (
                body is not None and their_body is not None and body != their_body
            ):
                return f"the answer kept for {key}: {self.keys[key]} and {other.keys[key]}"
        return None


def board_in(sql: RawSql) -> Board:
    """The board that the database holds."""
    return Board(
        teams=tuple(row["id"] for row in sql("SELECT id FROM teams ORDER BY id")),
        tasks={
            row["id"]: Task(row["task_status"], row["team_id"], row["change_id"], row["version"])
            for row in sql(
                "SELECT id, task_status, team_id, change_id, version FROM tasks ORDER BY create_time, id"
            )
        },
        transfers=[
            (row["task_id"], row["from_team_id"], row["to_team_id"])
            for row in sql("SELECT task_id, from_team_id, to_team_id FROM transfers ORDER BY id")
        ],
        keys={
            (row["path"], row["key"]): (row["fingerprint"], row["status"], bytes(row["body"]))
            for row in sql("SELECT path, key, fingerprint, status, body FROM idempotency_keys")
        },
    )


def fingerprint(ask: Ask) -> str:
    """As the server makes it of a body."""
    return hashlib.sha256(ask.body.encode()).hexdigest()
