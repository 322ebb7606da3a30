"""What clients were told, against what the database holds."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Answer

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01"}

State = int | None
"""A task's ``change_id``, or None where there is no such task."""

GONE = 599
"""In place of a status, where the connection broke before the answer."""


class Ledger:
    """Knows of each task in which states it may be. Lives as long as one test.

    One request at a time for a task: what an answer leaves open stays open until the next success.
    """

    def __init__(self) -> None:
        self.possible: dict[str, frozenset[State]] = {}
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []

    def new_id(self) -> str:
        """An id that nobody has used."""
        task_id = uuid.uuid4().hex
        self.possible[task_id] = frozenset({None})
        return task_id

    def note(self, task_id: str, wanted: State, status: int, outcome: str | None) -> None:
        """Note how a request ended that was to bring a task into the state ``wanted``."""
        if status < 400:
            self.possible[task_id] = frozenset({wanted})
        elif outcome in ("unknown", None):
            self.possible[task_id] |= {wanted}

    def heard(self, task_id: str, wanted: State, answer: Answer) -> Answer:
        """As `note`, and look at the answer itself: never 500, and 503 says when to come again."""
        outcome = None
        if answer.code != 204:
            body = answer.json()
            outcome = body.get("outcome") if answer.code >= 400 else None
            if answer.code >= 400 and (body["status"] != answer.code or outcome is None):
                self.faults.append(f"not a problem: {answer!r}")
        if answer.code == 503 and "Retry-After" not in answer.headers:
            self.faults.append(f"no Retry-After: {answer!r}")
        if answer.code not in (200, 201, 204, 503, 504):
            self.faults.append(f"unexpected: {answer!r}")
        self.answers[f"{answer.code} {outcome}" if outcome else str(answer.code)] += 1
        self.note(task_id, wanted, answer.code, outcome)
        return answer

    @property
    def acknowledged(self) -> int:
        """How many successes were read."""
        return sum(number for answer, number in self.answers.items() if answer.startswith("2"))

    def compare(self, sql: RawSql) -> list[str]:
        """What is in the database and may not be, or is not and should be; nothing where all is well."""
        held: dict[str, State] = {
            row["id"]: row["change_id"] for row in sql("SELECT id, change_id FROM tasks")
        }
        return [*self.faults, *self._differences(held)]

    def _differences(self, held: dict[str, State]) -> Iterable[str]:
        for task_id, possible in self.possible.items():
            if held.get(task_id) not in possible:
                told = ", ".join(map(str, possible))
                yield f"task {task_id} is {held.get(task_id)}; its client was told: {told}"
        for task_id in held.keys() - self.possible.keys():
            yield f"task {task_id} is there, and nobody asked for it"
