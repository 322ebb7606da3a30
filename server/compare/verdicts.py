"""Verdicts, and how they are come by: from what was seen, by the same rules for every scope."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from db.errors import UsageError
from db.scope import NoSession


class Kind(enum.Enum):
    """What became of a scenario's promise, the worst last."""

    HOLDS = "holds"
    REFUSED = "refused"
    LEAKED = "leaked"
    LOST = "lost"
    STALE = "stale"
    MIXED = "mixed"

    @property
    def meaning(self) -> str:
        """In a sentence."""
        return _MEANINGS[self]

    @property
    def sound(self) -> bool:
        """Whether one can live with it: nothing wrong was done."""
        return self in (Kind.HOLDS, Kind.REFUSED)


_MEANINGS = {
    Kind.HOLDS: "the promise is kept",
    Kind.REFUSED: "a clear error, and nothing wrong done",
    Kind.LEAKED: "a connection was not returned after the request",
    Kind.LOST: "no session where one was expected, or a second one: work that nobody commits",
    Kind.STALE: "a finished request's session was used",
    Kind.MIXED: "one request's rows were committed or read by another",
}


class Found(enum.Enum):
    """Whose session a piece of work was given or has found."""

    NONE = "none"
    OWN = "its own"
    SETTLED = "a finished request's"
    ANOTHERS = "another request's"
    MADE_UP = "one that the registry made"


@dataclass
class Sighting:
    """One call of a model function: who called it, which session it worked with, how it ended."""

    who: str
    function: str
    text: str | None
    found: Found = Found.NONE
    session: int = 0
    """The session's number, in the order in which they were seen; 0 where there was none."""
    owner: str | None = None
    error: BaseException | None = None

    def told(self) -> dict[str, Any]:
        """As it stands in the report."""
        told: dict[str, Any] = {"who": self.who, "called": self.function, "found": self.found.value}
        if self.session:
            told["session"] = self.session
        if self.owner not in (None, self.who):
            told["owner"] = self.owner
        if self.error is not None:
            told["raised"] = f"{type(self.error).__name__}: {self.error}"
        return told


@dataclass
class Evidence:
    """All that was seen of one scenario under one scope."""

    sightings: list[Sighting] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)
    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    """What was raised to a handler, or to whoever else, and by whom."""
    to_be_kept: set[str] = field(default_factory=set)
    to_be_undone: set[str] = field(default_factory=set)
    rows: list[str] = field(default_factory=list)
    connections_out: int = 0
    registered: int = 0
    """Sessions that a registry still holds when all requests are over."""

    def told(self) -> dict[str, Any]:
        """As it stands in the report."""
        few = self.sightings[:_SIGHTINGS_TOLD]
        return {
            "answers": _listed([f"{who}: {code}" for who, code in self.answers]),
            "rows": {
                "to be kept": _listed(self.to_be_kept),
                "to be undone": _listed(self.to_be_undone),
                "in the database": _listed(self.rows),
            },
            "sessions": [sighting.told() for sighting in few],
            "sessions_left_out": len(self.sightings) - len(few),
            "raised": [f"{who}: {type(error).__name__}: {error}" for who, error in self.errors[:5]],
            "connections_out": self.connections_out,
            "sessions_in_the_registry": self.registered,
        }


_SIGHTINGS_TOLD = 8
_ROWS_TOLD = 8


@dataclass
class Verdict:
    """What became of a scenario under one scope, why, and what else was found."""

    kind: Kind
    reason: str
    also: list[Kind]
    evidence: Evidence


def judge(evidence: Evidence) -> Verdict:
    """The worst that the evidence shows; what is less bad beside it is in ``also``."""
    found: dict[Kind, str] = {}

    def note(kind: Kind, reason: str) -> None:
        found.setdefault(kind, reason)

    rows = set(evidence.rows)
    users: dict[int, set[str]] = {}
    failed = {sighting.text for sighting in evidence.sightings if sighting.error is not None}
    for sighting in evidence.sightings:
        if sighting.error is not None:
            continue
        users.setdefault(sighting.session, set()).add(sighting.who)
        if sighting.found is Found.ANOTHERS:
            note(Kind.MIXED, "worked in another request's session")
        elif sighting.found is Found.SETTLED:
            note(Kind.STALE, "worked in a finished request's session")
        elif sighting.found is Found.MADE_UP:
            note(Kind.LOST, "worked in a second session, which nobody commits")
            if len(users[sighting.session]) > 1:
                note(Kind.MIXED, "several worked in one session, which nobody commits")
    if rows & evidence.to_be_undone:
        note(Kind.MIXED, "a refused request's row was kept by another's commit")
    errors = [error for _, error in evidence.errors]
    errors += [sighting.error for sighting in evidence.sightings if sighting.error is not None]
    clear = next((error for error in errors if is_clear(error)), None)
    if evidence.to_be_kept - rows - failed and clear is None:
        note(Kind.LOST, "answered as kept, and not there")
    if evidence.connections_out:
        note(Kind.LEAKED, "a connection is still out")
    if clear is not None:
        note(Kind.REFUSED, type(clear).__name__)
    elif errors:
        note(Kind.LOST, f"no session to be had: {type(errors[0]).__name__}")
    if not found:
        return Verdict(Kind.HOLDS, "as promised", [], evidence)
    worst_first = [kind for kind in reversed(Kind) if kind in found]
    return Verdict(worst_first[0], found[worst_first[0]], worst_first[1:], evidence)


def is_clear(error: BaseException) -> bool:
    """Whether an error says what was done wrong: whoever sees it knows what to mend."""
    forgotten = isinstance(error, TypeError) and "'session'" in str(error)
    return isinstance(error, (UsageError, NoSession)) or forgotten


def _listed(texts: set[str] | list[str]) -> list[str]:
    known = sorted(texts)
    more = len(known) - _ROWS_TOLD
    return known if more <= 0 else [*known[:_ROWS_TOLD], f"… and {more} more"]
