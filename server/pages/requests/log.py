"""Keeps requests when they have ended, with what a recorder has recorded of them."""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from db import AsyncUnitOfWork, Database, Outcome
from db.health import LABEL as READINESS
from db.observer import ObservedUnit
from db.work.recorder import Recorder, Recording
from handlers.base import SessionHandler
from handlers.lifecycle.attempts import attempts_of
from handlers.lifecycle.held_response import HeldResponse, StreamedResponse
from handlers.request_id import request_id_of
from server.monitoring.ops import OpsHandler
from server.monitoring.route_names import RouteNames
from server.pages.live.places import is_application
from server.pages.requests.findings import findings_of
from server.pages.requests.kept import Finding, KeptRequest, KeptRequests, Reason, RecordedUnit

log = logging.getLogger("onfinish.requests")

SLOW_S = 1.0
"""A request that took longer is among the worst."""

_UNITS_MAX = 16
"""Units of work of one request that are kept: its attempts, and what follows in transactions of their own."""

_LINES_MAX = 1000
"""Lines that were warned of."""

_PATH_CHARS_MAX = 500


class RequestLog:
    """The requests of one process that are kept. Lives as long as that; records from `start` to `stop`.

    Without a recorder it keeps those that are slow, failed, retried or unknown, without their statements.

    Args:
        process: which one it is.
        names: the routes, asked for when they are needed.
        warns: log a loop of equal SELECTs once a line.
    """

    def __init__(self, process: int, names: Callable[[], RouteNames], *, warns: bool) -> None:
        self.process = process
        self.kept = KeptRequests()
        self._names = names
        self._warns = warns
        self._warned: set[str] = set()
        self._serials = itertools.count(1)
        self._database: Database | None = None
        self._recorder: Recorder | None = None
        self._units: weakref.WeakKeyDictionary[HTTPServerRequest, list[RecordedUnit]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def is_recording(self) -> bool:
        """Whether statements are recorded."""
        return self._recorder is not None

    def start(self, database: Database) -> None:
        """Record the units of work of a database."""
        self._database = database
        self._recorder = Recorder(
            (database.writer, database.reader),
            database.registry,
            is_application=is_application,
            ended=self._unit_ended,
        )
        self._recorder.start()

    def stop(self) -> None:
        """Record no more. What is kept stays."""
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder = None

    def answered(self, handler: RequestHandler) -> None:
        """A request was answered: called with each, when its response has left."""
        request, status = handler.request, handler.get_status()
        records, took_s = self._recorder is not None, request.request_time()
        if not isinstance(handler, SessionHandler):
            if status >= (400 if records else 500) and not isinstance(handler, OpsHandler):
                reasons: tuple[Reason, ...] = ("failed",) if status >= 500 else ()
                kept = self._kept(request, [], took_s=took_s, status=status, outcome="-", reasons=reasons)
                self.kept.add(kept, last=records)
            return
        # What went well ends here: no outcome is unknown whose answer is no error.
        is_retried = handler._attempts is not None and handler._attempts.attempt > 1
        if records or status >= 400 or took_s >= SLOW_S or is_retried:
            found = _reasons(handler, status, took_s)
            if found or records:
                self._keep_session(handler, status, took_s, found)

    def open_requests(self, beginning: str) -> Iterator[KeptRequest]:
        """Those whose id begins so and that have not ended, as far as they have come."""
        recorder, database = self._recorder, self._database
        if recorder is None or database is None:
            return
        for unit in database.open_units:
            request = _request_of(unit)
            if request is not None and request_id_of(request).startswith(beginning):
                so_far = _recorded(unit, recorder.recording_of(unit) or Recording())
                units = _in_order([*self._units.get(request, ()), so_far])
                yield self._kept(request, units, took_s=request.request_time(), outcome="open", is_open=True)

    # -- what is kept

    def _keep_session(
        self, handler: SessionHandler, status: int, took_s: float, reasons: list[Reason]
    ) -> None:
        request, attempts = handler.request, handler._attempts
        units = _in_order(self._units.pop(request if attempts is None else attempts.request, []))
        findings = self._findings(units, streams=handler.streams)
        if findings:
            reasons.append("wasteful")
        kept = self._kept(
            request,
            units,
            took_s=took_s,
            outcome=handler.work_outcome,
            route=self._names().of_handler(handler),
            handler=f"{type(handler).__name__}.{(request.method or '').lower()}",
            status=status,
            statements=None if attempts is None else attempts.statements,
            attempts=1 if attempts is None else attempts.attempt,
            reasons=tuple(reasons),
            findings=tuple(findings),
        )
        self.kept.add(kept, last=self._recorder is not None)

    def _kept(
        self,
        request: HTTPServerRequest,
        units: Iterable[RecordedUnit],
        *,
        took_s: float,
        route: str = "",
        handler: str = "",
        status: int | None = None,
        statements: int | None = None,
        attempts: int = 1,
        **options: Any,
    ) -> KeptRequest:
        path = request.path[:_PATH_CHARS_MAX]
        method = (request.method or "-")[:_PATH_CHARS_MAX]
        route = route or self._names().of_request(request) or path
        units = tuple(units)
        return KeptRequest(
            process=self.process,
            serial=next(self._serials),
            request_id=request_id_of(request),
            name=f"{method} {route}",
            method=method,
            path=path,
            handler=handler,
            status=status,
            at_s=time.time() - took_s,
            began_at=min([time.monotonic() - took_s, *(recorded.opened_at for recorded in units)]),
            took_s=took_s,
            statements=statements,
            attempts=attempts,
            units=units,
            **options,
        )

    def _unit_ended(self, unit: ObservedUnit, recording: Recording) -> None:
        request = _request_of(unit)
        if request is not None:
            units = self._units.setdefault(request, [])
            if len(units) < _UNITS_MAX:
                units.append(_recorded(unit, recording))
        elif recording.statements:
            self._keep_alone(unit, _recorded(unit, recording)._replace(attempt=0))

    def _keep_alone(self, unit: ObservedUnit, recorded: RecordedUnit) -> None:
        """Keep a unit of work that no request's answer waits for: a message's, a job's.

        Not the checks of readiness: a load balancer's would soon be the last hundred.
        """
        if unit.label == READINESS:
            return
        findings = self._findings([recorded])
        origin = unit.origin if isinstance(unit, AsyncUnitOfWork) else None
        took_s = recorded.ended_at - recorded.opened_at
        is_unknown = unit.outcome is Outcome.UNKNOWN
        reasons: tuple[Reason, ...] = ("unknown",) if is_unknown else ()
        kept = KeptRequest(
            process=self.process,
            serial=next(self._serials),
            request_id=request_id_of(origin)
            if isinstance(origin, HTTPServerRequest)
            else os.urandom(8).hex(),
            name=unit.label,
            method="",
            path="",
            handler="",
            status=None,
            at_s=time.time() - took_s,
            began_at=recorded.opened_at,
            took_s=took_s,
            outcome=recorded.outcome,
            statements=recorded.statements,
            attempts=1,
            reasons=reasons + (("wasteful",) if findings else ()),
            findings=tuple(findings),
            units=(recorded,),
        )
        self.kept.add(kept, last=True)

    def _findings(self, units: Iterable[RecordedUnit], *, streams: bool = False) -> list[Finding]:
        found: dict[tuple[str, str], Finding] = {}
        for recorded, each in [(one, each) for one in units for each in findings_of(one, streams=streams)]:
            found.setdefault((each.kind, each.line), each)  # each attempt has it
            is_new = each.kind == "n+1" and each.line not in self._warned
            if self._warns and is_new and len(self._warned) < _LINES_MAX:
                self._warned.add(each.line)
                write = f" Write {each.code}" if each.code else ""
                log.warning("%s: %s. %s %s%s", recorded.label, each.told, each.line, each.about, write)
        return [*found.values()]


def _reasons(handler: SessionHandler, status: int, took_s: float) -> list[Reason]:
    """Why a request is among the worst; of what it did in the database nothing is asked."""
    reasons: list[Reason] = []
    if took_s >= SLOW_S and not handler.streams:
        reasons.append("slow")
    if status >= 500:
        reasons.append("failed")
    if handler._attempts is not None and handler._attempts.attempt > 1:
        reasons.append("retried")
    if handler._work is Outcome.UNKNOWN:
        reasons.append("unknown")
    return reasons


def _request_of(unit: ObservedUnit) -> HTTPServerRequest | None:
    """The request whose answer waits for a unit of work, of several attempts the first one's.

    None for any other: the messages of a socket have their handshake's.
    """
    request = unit.origin if isinstance(unit, AsyncUnitOfWork) else None
    if not isinstance(request, HTTPServerRequest):
        return None
    if not isinstance(request.connection, HeldResponse | StreamedResponse):
        return None
    attempts = attempts_of(request)
    return request if attempts is None else attempts.request


def _in_order(units: Iterable[RecordedUnit]) -> list[RecordedUnit]:
    """Units of work as they began: one ends after those that follow it. Its attempts are numbered."""
    numbers = itertools.count(1)
    return [
        recorded._replace(attempt=next(numbers)) if recorded.attempt else recorded
        for recorded in sorted(units, key=lambda recorded: recorded.opened_at)
    ]


def _recorded(unit: ObservedUnit, recording: Recording) -> RecordedUnit:
    """A unit of work that has ended, or as far as it has come."""
    now = time.monotonic()
    end = recording.commit or recording.rollback
    recorded = RecordedUnit(
        label=unit.label,
        attempt=1,
        pool=unit.pool,
        outcome=unit.outcome.value,
        opened_at=unit.opened_at,
        ended_at=now if end is None else end.began_at + end.took_s,
        queued_at=None,
        queued_s=0.0,
        db_s=now - unit.opened_at,
        statements=sum(each.counts for each in recording.statements) + recording.more,
        limit_s=None,
        recording=recording,
    )
    if not isinstance(unit, AsyncUnitOfWork):
        return recorded
    return recorded._replace(
        attempt=0 if unit.is_follow_up else 1,
        queued_at=unit.queued_at,
        queued_s=unit.queued_s,
        db_s=unit.db_s,
        limit_s=None if unit.deadline_at is None else unit.deadline_at - now,
    )
