"""Requests that are kept after their end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from db.work.recorder import Recording, Span, Statement
from server.pages.live.places import place_at

LAST_MAX = 100

REASONS = ("slow", "failed", "retried", "unknown", "wasteful")
"""Why a request is among the worst. Wasteful: it has a `Finding`."""

Reason = Literal["slow", "failed", "retried", "unknown", "wasteful"]

EACH_MAX = 20
"""So many of each reason, the newest; a hundred in all. An overload displaces no slow one."""


class Finding(NamedTuple):
    """Something of a request that can be done better.

    ``told``: what, in a few words. ``about``: where and why. ``code``: what to write instead.
    """

    kind: Literal["n+1", "held"]
    told: str
    about: str
    code: str
    line: str


class RecordedUnit(NamedTuple):
    """One unit of work of a request. Times are in seconds, those ending in ``at`` of `time.monotonic`.

    ``attempt``: which one of the request; 0 for what follows it in a transaction of its own. ``db_s``: what
    its calls took, in threads or greenlets. ``statements``: how many were sent. ``limit_s``: how much of its
    time was left at its end, None without a deadline.
    """

    label: str
    attempt: int
    pool: str
    outcome: str
    opened_at: float
    ended_at: float
    queued_at: float | None
    queued_s: float
    db_s: float
    statements: int
    limit_s: float | None
    recording: Recording

    def as_json(self, began_at: float) -> dict[str, Any]:
        """The unit, times in milliseconds since the request began."""
        recording = self.recording

        def at(time_s: float | None) -> float | None:
            return None if time_s is None else round((time_s - began_at) * 1000, 3)

        def span(found: Span | None) -> dict[str, Any] | None:
            return found and {"at_ms": at(found.began_at), "took_ms": _ms(found.took_s)}

        return {
            "label": self.label,
            "attempt": self.attempt,
            "pool": self.pool,
            "outcome": self.outcome,
            "opened_ms": at(self.opened_at),
            "ended_ms": at(self.ended_at),
            "queued": {"at_ms": at(self.queued_at), "took_ms": _ms(self.queued_s)}
            if self.queued_at
            else None,
            "connected_ms": at(recording.connected_at),
            "db_ms": _ms(self.db_s),
            "deadline_in_ms": None if self.limit_s is None else _ms(self.limit_s),
            "count": self.statements,
            "statements": [_statement(each, at(each.began_at)) for each in recording.statements],
            "not_kept": {"count": recording.more, "took_ms": _ms(recording.more_s)},
            "commit": span(recording.commit),
            # The pool rolls back whatever comes back to it.
            "rollback": span(recording.rollback) if self.pool == "writer" and not recording.commit else None,
        }


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request that has ended, a message of a socket, or a job. Lives as long as it is kept.

    ``at_s`` is Unix time, ``began_at`` that of `time.monotonic`. ``status``: None for what is no request.
    ``units``: none where nothing was recorded.
    """

    process: int
    serial: int
    request_id: str
    name: str
    method: str
    path: str
    handler: str
    status: int | None
    at_s: float
    began_at: float
    took_s: float
    outcome: str
    statements: int | None
    attempts: int
    reasons: tuple[Reason, ...] = ()
    findings: tuple[Finding, ...] = ()
    units: tuple[RecordedUnit, ...] = ()
    is_open: bool = False

    def summary(self) -> dict[str, Any]:
        """As a list of requests has it."""
        return {
            "process": self.process,
            "serial": self.serial,
            "request_id": self.request_id,
            "name": self.name,
            "method": self.method,
            "path": self.path,
            "handler": self.handler,
            "status": self.status,
            "at_s": round(self.at_s, 3),
            "took_ms": _ms(self.took_s),
            "outcome": self.outcome,
            "statements": self.statements,
            "attempts": self.attempts,
            "reasons": [*self.reasons],
            "findings": [each._asdict() for each in self.findings],
            "recorded": bool(self.units),
            "open": self.is_open,
        }

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**self.summary(), "units": [unit.as_json(self.began_at) for unit in self.units]}


class KeptRequests:
    """The last and the worst requests of a process. Lives as long as that. May be added to by any thread."""

    def __init__(self) -> None:
        self.last: deque[KeptRequest] = deque(maxlen=LAST_MAX)
        self._worst: Mapping[str, deque[KeptRequest]] = {reason: deque(maxlen=EACH_MAX) for reason in REASONS}

    def add(self, request: KeptRequest, *, last: bool) -> None:
        """Keep a request: among the worst where there is a reason.

        Args:
            last: among the last as well.
        """
        if last:
            self.last.append(request)
        for reason in request.reasons:
            self._worst[reason].append(request)

    @property
    def worst(self) -> list[KeptRequest]:
        """The worst, the newest first, each once."""
        found = {each.serial: each for kept in self._worst.values() for each in list(kept)}
        return [found[serial] for serial in sorted(found, reverse=True)]

    def find(self, beginning: str) -> Iterator[KeptRequest]:
        """Those whose id begins so, the newest first. Clients choose ids, and may send one several times."""
        kept = [*self.last, *self.worst]
        found = {each.serial: each for each in kept if each.request_id.startswith(beginning)}
        return (found[serial] for serial in sorted(found, reverse=True))


def _statement(statement: Statement, at_ms: float | None) -> dict[str, Any]:
    load, line = statement.load, statement.line
    return {
        "at_ms": at_ms,
        "took_ms": _ms(statement.took_s),
        "sql": statement.sql,
        "rows": statement.rows,
        "line": None if line is None else place_at(line)._asdict(),
        "load": None if load is None else load._asdict(),
        "counts": statement.counts,
        "failed": statement.failed,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
