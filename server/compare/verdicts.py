"""Verdicts, and how they follow from the evidence: by the same rules for every scope."""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from db.errors import UsageError


class Kind(enum.Enum):
    """What became of a scenario's promise, the worst last."""

    HOLDS = "holds"
    REFUSED = "refused"
    LEAKED = "leaked"
    STALE = "stale"
    BROKEN = "broken"
    KEPT = "kept"
    LOST = "lost"
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
    Kind.HOLDS: "what the scenario promises is what happened",
    Kind.REFUSED: "a clear error in place of it, which names the mistake; nothing wrong was done",
    Kind.LEAKED: "a connection of the pool was not returned when the work was over",
    Kind.STALE: "a session was used after its request had closed it, and opened again",
    Kind.BROKEN: "a sound request failed, by an error that does not name the mistake",
    Kind.KEPT: "a request was answered by an error, and its row is in the database",
    Kind.LOST: "a row is not in the database, though no error said so",
    Kind.MIXED: "two requests, or two threads, worked in one session",
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
    saw: list[str] = field(default_factory=list)
    """The rows that it has read."""
    shared: bool = False
    """Whether another thread had the same session in use."""
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
    to_be_refused: set[str] = field(default_factory=set)
    """Not to be in the database, and no client is to have read a success for it."""
    rows: list[str] = field(default_factory=list)
    connections_out: int = 0
    connections_kept: int = 0
    """Those that the garbage collector did not bring back either."""
    registered: int = 0
    """Sessions that a registry still holds when all requests are over."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in the report."""
        few = self.calls[:_CALLS_SHOWN]
        return {
            "answers": _listed([f"{caller}: {code}" for caller, code in self.answers]),
            "rows": {
                "to be kept": _listed(self.to_be_kept),
                "to be undone": _listed(self.to_be_undone | self.to_be_refused),
                "in the database": _listed(self.rows),
            },
            "sessions": [call.as_json() for call in few],
            "sessions_left_out": len(self.calls) - len(few),
            "raised": [f"{caller}: {type(error).__name__}: {error}" for caller, error in self.errors[:5]],
            "connections_out": self.connections_out,
            "connections_out_after_a_collection": self.connections_kept,
            "sessions_in_the_registry": self.registered,
        }

    def status_of(self, caller: str) -> int | None:
        """How that caller's request was answered; None where it was none, or has no answer yet."""
        return next((status for name, status in self.answers if name == caller), None)

    def caller_of(self, text: str) -> str | None:
        """Whose row it is."""
        return next((call.caller for call in self.calls if call.text == text), None)

    def acknowledged(self, text: str) -> bool:
        """Whether a client has read a success for the request whose row it is."""
        status = self.status_of(self.caller_of(text) or "")
        return status is not None and status < 400

    def missing(self) -> list[str]:
        """Rows that are not there, and whose calls raised nothing."""
        failed = {call.text for call in self.calls if call.error is not None}
        return sorted(self.to_be_kept - {*self.rows} - failed)

    def forget_frames(self) -> None:
        """Clear the frames of recorded errors: they hold sessions, which are to be counted without them."""
        errors = [error for _, error in self.errors]
        for error in [*errors, *(call.error for call in self.calls if call.error is not None)]:
            while error is not None:
                traceback.clear_frames(error.__traceback__)
                error.__traceback__ = None
                error = error.__cause__ or error.__context__  # type: ignore[assignment]  # the loop's end


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

    rows = {*evidence.rows}
    users: dict[int, set[str]] = {}
    for call in evidence.calls:
        if call.error is not None:
            continue
        users.setdefault(call.session, set()).add(call.caller)
        if call.found is Found.ANOTHERS:
            note(Kind.MIXED, "worked in another request's session")
        elif call.found is Found.SETTLED:
            note(Kind.STALE, "worked in a finished request's session")
        elif call.found is Found.MADE_UP:
            if call.text is None or call.text not in rows:
                note(Kind.LOST, "worked in a second session, which is never committed")
            if len(users[call.session]) > 1:
                note(Kind.MIXED, "several callers worked in one session that none of them owns")
        if call.shared:
            note(Kind.MIXED, "two threads worked in one session at once")
        if others_unkept(evidence, call):
            note(Kind.MIXED, "read another request's row, which was undone")
    for text in rows & (evidence.to_be_undone | evidence.to_be_refused):
        if any(call.text == text and call.found is Found.ANOTHERS for call in evidence.calls):
            note(Kind.MIXED, "a refused request's row was kept by another's commit")
        else:
            note(Kind.KEPT, "a refused request's row was committed")
    _judge_what_is_missing(evidence, note)
    if evidence.connections_out:
        note(Kind.LEAKED, "a connection is still checked out")
    _judge_errors(evidence, found, note)
    if not found:
        return Verdict(Kind.HOLDS, "as promised", [], evidence)
    worst_first = [kind for kind in reversed(Kind) if kind in found]
    return Verdict(worst_first[0], found[worst_first[0]], worst_first[1:], evidence)


def others_unkept(evidence: Evidence, call: ModelCall) -> list[str]:
    """Rows that a call has read, of others, and that were not to be kept."""
    undone = evidence.to_be_undone | evidence.to_be_refused
    return [text for text in call.saw if text in undone and evidence.caller_of(text) != call.caller]


def _judge_what_is_missing(evidence: Evidence, note: Callable[[Kind, str], None]) -> None:
    for text in evidence.missing():
        status = evidence.status_of(evidence.caller_of(text) or "")
        if evidence.caller_of(text) is None:
            continue  # its call was never reached: the error that kept it from being reached is judged
        if status is None and not _clear(evidence):
            note(Kind.LOST, "not in the database, and nothing was raised")
        elif status is not None and status < 400:
            note(Kind.LOST, "acknowledged, and not in the database")
    for text in evidence.to_be_refused - {*evidence.rows}:
        if evidence.acknowledged(text):
            note(Kind.LOST, "acknowledged, and not in the database")


def _judge_errors(evidence: Evidence, found: dict[Kind, str], note: Callable[[Kind, str], None]) -> None:
    meant = {evidence.caller_of(text) for text in evidence.to_be_refused}
    errors = [error for caller, error in evidence.errors if caller not in meant]
    errors += [call.error for call in evidence.calls if call.error is not None and call.caller not in meant]
    clear = _clear(evidence)
    if clear is not None:
        note(Kind.REFUSED, type(clear).__name__)
    elif errors and {*found} <= {Kind.LEAKED, Kind.STALE}:
        note(Kind.BROKEN, f"failed by {type(errors[-1]).__name__}")


def _clear(evidence: Evidence) -> BaseException | None:
    errors = [error for _, error in evidence.errors]
    errors += [call.error for call in evidence.calls if call.error is not None]
    return next((error for error in errors if is_clear(error)), None)


def is_clear(error: BaseException) -> bool:
    """Whether an error names the mistake: its message is enough to mend the code."""
    forgotten = isinstance(error, TypeError) and "'session'" in str(error)
    not_set = type(error) is LookupError and "ContextVar" in str(error)
    return isinstance(error, UsageError) or forgotten or not_set


def _listed(texts: set[str] | list[str]) -> list[str]:
    known = sorted(texts)
    more = len(known) - _ROWS_SHOWN
    return known if more <= 0 else [*known[:_ROWS_SHOWN], f"… and {more} more"]
