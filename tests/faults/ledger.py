"""What clients were told, against what the database holds."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Answer

State = int | None
"""A row's number, or None where there is no such row."""

GONE = 599
"""In place of a status, where the connection broke before the answer."""


class Resource(NamedTuple):
    """Rows that clients create, change and delete, each with an ``id`` and a number."""

    path: str
    table: str
    number: str
    """What the number is called, in the table and over HTTP."""

    body: Mapping[str, Any]
    """What else a new one has."""

    def new(self, row_id: str, number: int) -> dict[str, Any]:
        """The body of a request that creates one."""
        return {**self.body, "id": row_id, self.number: number}


BOOKS = Resource("/books", "books", "pages", {"title": "a book"})


class Ledger:
    """Knows of each row in which states it may be. Lives as long as one test.

    One request at a time for a row: what an answer leaves open stays open until the next success.
    """

    def __init__(self, resource: Resource = BOOKS) -> None:
        self.resource = resource
        self.possible: dict[str, frozenset[State]] = {}
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []

    def new_id(self) -> str:
        """An id that has not been used."""
        row_id = uuid.uuid4().hex
        self.possible[row_id] = frozenset({None})
        return row_id

    def note(self, row_id: str, wanted: State, status: int, outcome: str | None) -> None:
        """Note how a request ended that was to bring a row into the state ``wanted``."""
        if status < 400:
            self.possible[row_id] = frozenset({wanted})
        elif outcome in ("unknown", None):
            self.possible[row_id] |= {wanted}

    def heard(self, row_id: str, wanted: State, answer: Answer) -> Answer:
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
        self.note(row_id, wanted, answer.code, outcome)
        return answer

    @property
    def acknowledged(self) -> int:
        """How many successes were read."""
        return sum(number for answer, number in self.answers.items() if answer.startswith("2"))

    def compare(self, sql: RawSql) -> list[str]:
        """What is in the database and may not be, or is not and should be; nothing where all is well."""
        held: dict[str, State] = {
            row["id"]: row["number"]
            for row in sql(f"SELECT id, {self.resource.number} AS number FROM {self.resource.table}")
        }
        return [*self.faults, *self._differences(held)]

    def _differences(self, held: dict[str, State]) -> Iterable[str]:
        for row_id, possible in self.possible.items():
            if held.get(row_id) not in possible:
                told = ", ".join(map(str, possible))
                yield f"{self.resource.table} {row_id} is {held.get(row_id)}; its client was told: {told}"
        for row_id in held.keys() - self.possible.keys():
            yield f"{self.resource.table} {row_id} is there, and no request asked for it"
