"""Verdicts, and how they follow from the evidence: by the same rules for every scope."""

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
        """Whether an application can rely on it: nothing wrong was done."""
        return self in (Kind.HOLDS, Kind.REFUSED)


_MEANINGS = {
    Kind.HOLDS: "the promise is kept",
    Kind.REFUSED: "a clear error, and nothing wrong done",
    Kind.LEAKED: "a connection was not returned after the request",
    Kind.LOST: "no session where one was expected, or a second one: work that is never committed",
    Kind.STALE: "a finished request's session was used",
    Kind.MIXED: "one request's rows were committed or read by another",
}


class Found(enum.Enum):
    """Which session a call of a model function was given, or has found."""

    NONE = "none"
    OWN = "its own"
    SETTLED = "a finished request's"
    ANOTHERS = "another request's"
    MADE_UP = "one that the registry made"


@dataclass
class ModelCall:
    """One call of a model function: its caller, the session it worked with, how it ended."""

    caller: str
    function: str
    text: str | None
    found: Found = Found.NONE
    session: int = 0
    """The session's number, in the order in which they were seen; 0 where there was none."""
    owner: str | None = None
    error: BaseException | None = None

    def as_json(self) -> dict[str, Any]:
        """As it stands in the report."""
        shown: dict[str, Any] = {"caller": self.caller, "called": self.function, "found": self.found.value}
        if self.session:
            shown["session"] = self.session
        if self.owner not in (None, self.caller):
            shown["owner"] = self.owner
        if self.error is not None:
            shown["raised"] = f"{type(self.error).__name__}: {self.error}"
        return shown


@dataclass
class Evidence:
    """All that was observed of one scenario under one scope."""

    calls: list[ModelCall] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)
    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    """What was raised to a handler or another caller, and to which."""
    to_be_kept: set[str] = field(default_factory=set)
    to_be_undone: set[str] = field(default_factory=set)
    rows: list[str] = field(default_factory=list)
    connections_out: int = 0
    registered: int = 0
    """Sessions that a registry still holds when all requests are over."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in the report."""
        few = self.calls[:_CALLS_SHOWN]
        return {
            "answers": _listed([f"{caller}: {code}" for caller, code in self.answers]),
            "rows": {
                "to be kept": _listed(self.to_be_kept),
                "to be undone": _listed(self.to_be_undone),
                "in the database": _listed(self.rows),
            },
            "sessions": [call.as_json() for call in few],
            "sessions_left_out": len(self.calls) - len(few),
            "raised": [f"{caller}: {type(error).__name__}: {error}" for caller, error in self.errors[:5]],
            "connections_out": self.connections_out,
            "sessions_in_the_registry": self.registered,
        }


_CALLS_SHOWN = 8
_ROWS_SHOWN = 8


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
    failed = {call.text for call in evidence.calls if call.error is not None}
    for call in evidence.calls:
        if call.error is not None:
            continue
        users.setdefault(call.session, set()).add(call.caller)
        if call.found is Found.ANOTHERS:
            note(Kind.MIXED, "worked in another request's session")
        elif call.found is Found.SETTLED:
            note(Kind.STALE, "worked in a finished request's session")
        elif call.found is Found.MADE_UP:
            note(Kind.LOST, "worked in a second session, which is never committed")
            if len(users[call.session]) > 1:
                note(Kind.MIXED, "several callers worked in one session, which is never committed")
    if rows & evidence.to_be_undone:
        note(Kind.MIXED, "a refused request's row was kept by another's commit")
    errors = [error for _, error in evidence.errors]
    errors += [call.error for call in evidence.calls if call.error is not None]
    clear = next((error for error in errors if is_clear(error)), None)
    if evidence.to_be_kept - rows - failed and clear is None:
        note(Kind.LOST, "acknowledged, and not in the database")
    if evidence.connections_out:
        note(Kind.LEAKED, "a connection is still checked out")
    if clear is not None:
        note(Kind.REFUSED, type(clear).__name__)
    elif errors:
        note(Kind.LOST, f"no session could be had: {type(errors[0]).__name__}")
    if not found:
        return Verdict(Kind.HOLDS, "as promised", [], evidence)
    worst_first = [kind for kind in reversed(Kind) if kind in found]
    return Verdict(worst_first[0], found[worst_first[0]], worst_first[1:], evidence)


def is_clear(error: BaseException) -> bool:
    """Whether an error names the mistake: its message is enough to mend the code."""
    forgotten = isinstance(error, TypeError) and "'session'" in str(error)
    return isinstance(error, (UsageError, NoSession)) or forgotten


def _listed(texts: set[str] | list[str]) -> list[str]:
    known = sorted(texts)
    more = len(known) - _ROWS_SHOWN
    return known if more <= 0 else [*known[:_ROWS_SHOWN], f"… and {more} more"]
