"""What units of work do with the database, recorded while there is a use for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, NamedTuple

from sqlalchemy import PoolProxiedConnection
from sqlalchemy.engine import Dialect

from db.capacity.endpoint import Endpoint
from db.capacity.registry import OpenUnit, UnitRegistry
from db.engines._sqlalchemy import Load, load_of
from db.engines.engine import guard_on
from db.guard import OPTION, StatementGuard
from db.observer import ObservedUnit
from db.work.async_unit_of_work import AsyncUnitOfWork
from db.work.unit_of_work import UnitOfWork

STATEMENTS_MAX = 500
"""How many statements of a unit are kept; the others are counted."""

SQL_CHARS_MAX = 4096
"""A longer statement is cut."""

SQL_CHARS_TOTAL = 32 * 1024
"""Of all the different statements of a unit; beyond that they are cut to `_SQL_CHARS_LEAST`."""

_SQL_CHARS_LEAST = 80

_FILES_MAX = 4096

_AT_THE_END = UnitOfWork.settle.__code__


class Line(NamedTuple):
    """A line of an application's code."""

    file: str
    number: int
    function: str


_MARKER = "/* the commit marker, in one string with COMMIT */"


class Statement(NamedTuple):
    """A statement that was sent. Times are in seconds, ``began_at`` on the clock of `time.monotonic`.

    ``rows``: as the driver reports them; None where it does not. ``line``: the innermost of the application
    that sent it; None for what is sent at the end, before COMMIT. ``load``: what it loads by itself.
    ``counts``: it is the program's; False for a BEGIN. ``failed``: it raised.
    """

    began_at: float
    took_s: float
    sql: str
    rows: int | None
    line: Line | None
    load: Load | None
    counts: bool
    failed: bool


class Span(NamedTuple):
    """A COMMIT or a ROLLBACK, as of `Statement`."""

    began_at: float
    took_s: float


class Recording:
    """What one unit of work has done with its connection. Lives as long as something shows it.

    No parameters. Of bounded size: see `STATEMENTS_MAX`. ``connected_at``: since when it had a connection
    whose transaction had begun; None where it needed none. ``more`` statements, which took ``more_s``, are
    not kept.
    """

    __slots__ = ("statements", "connected_at", "commit", "rollback", "more", "more_s", "_texts", "_left")

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.connected_at: float | None = None
        self.commit: Span | None = None
        self.rollback: Span | None = None
        self.more = 0
        self.more_s = 0.0
        self._texts: dict[str, str] = {}
        self._left = SQL_CHARS_TOTAL

    def text_of(self, sql: str) -> str:
        """A statement as it is kept."""
        text = self._texts.get(sql)
        if text is None:
            most = SQL_CHARS_MAX if self._left > 0 else _SQL_CHARS_LEAST
            text = sql if len(sql) <= most else f"{sql[:most]}…"
            self._left -= len(text)
            self._texts[sql] = text
        return text

    def close(self) -> None:
        """Nothing more is recorded: drop what was needed for that."""
        self._texts = {}


class Recorder:
    """Records units of work from `start` to `stop`. Lives as long as its `Database`.

    It stands round methods of the engines' dialects, and takes itself out again: afterwards these are the
    same objects as before, and no statement pays for it.

    Args:
        endpoints: the writer and the reader.
        registry: of the open units.
        is_application: whether a file is the application's: of its lines one is recorded with a statement.
        ended: called with each unit that has ended and what it has done; on the event loop, of a
            `session_scope` in its thread. Waits for nothing and raises nothing.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        registry: UnitRegistry,
        *,
        is_application: Callable[[str], bool],
        ended: Callable[[ObservedUnit, Recording], object],
    ) -> None:
        engines = [engine for each in endpoints for engine in (each.engine, each.scopes)]
        self._dialects: list[Dialect] = list({id(each.dialect): each.dialect for each in engines}.values())
        self._registry = registry
        self._is_application = is_application
        self._ended = ended
        self._files: dict[str, bool] = {}
        self._replaced: list[tuple[Any, str, Any]] = []

    @property
    def is_on(self) -> bool:
        """Whether it records."""
        return bool(self._replaced)

    def start(self) -> None:
        """Record from now on."""
        if self._replaced:
            return
        for dialect in self._dialects:
            for name in ("do_execute", "do_executemany", "do_execute_no_params"):
                self._replace(dialect, name, self._executing(getattr(dialect, name)))
            self._replace(dialect, "do_begin", _beginning(dialect.do_begin))
            self._replace(dialect, "do_commit", _ending(dialect.do_commit, "commit"))
            self._replace(dialect, "do_rollback", _ending(dialect.do_rollback, "rollback"))
        registry = self._registry
        ended, scope_ended = registry.ended, registry.scope_ended

        def unit_ended(unit: OpenUnit) -> None:
            ended(unit)
            self._report(unit)

        def scope_has_ended(unit: ObservedUnit) -> None:
            scope_ended(unit)
            self._report(unit)

        self._replace(registry, "ended", unit_ended)
        self._replace(registry, "scope_ended", scope_has_ended)

    def stop(self) -> None:
        """Record no more."""
        while self._replaced:
            where, name, before = self._replaced.pop()
            if before is None:
                delattr(where, name)
            else:
                setattr(where, name, before)

    def recording_of(self, unit: ObservedUnit) -> Recording | None:
        """What a unit has done so far; None where nothing is known of it."""
        guard = _guard_of(unit)
        return None if guard is None else getattr(guard, "recording", None)

    def _replace(self, where: Any, name: str, by: Any) -> None:
        self._replaced.append((where, name, vars(where).get(name)))
        setattr(where, name, by)

    def _report(self, unit: ObservedUnit) -> None:
        recording = self.recording_of(unit) or Recording()
        recording.close()
        self._ended(unit, recording)

    def _executing(self, do: Callable[..., None]) -> Callable[..., None]:
        def do_recorded(cursor: Any, statement: str, *arguments: Any) -> None:
            context = arguments[-1]
            guard = None if context is None else context.execution_options.get(OPTION)
            if guard is None:
                do(cursor, statement, *arguments)
                return
            sent, failed = guard.statements, True
            began_at = time.monotonic()
            try:
                do(cursor, statement, *arguments)
                failed = False
            finally:
                took_s, counts = time.monotonic() - began_at, guard.statements > sent
                if counts or not failed:  # else the guard has refused it
                    recording = _recording_of(guard)
                    if len(recording.statements) < STATEMENTS_MAX:
                        rows = -1 if failed else cursor.rowcount
                        recording.statements.append(
                            Statement(
                                began_at,
                                took_s,
                                recording.text_of(statement),
                                rows if rows >= 0 else None,
                                self._line(guard, sys._getframe(1)),
                                load_of(context),
                                counts,
                                failed,
                            )
                        )
                    else:
                        recording.more += counts
                        recording.more_s += took_s

        return do_recorded

    def _line(self, guard: StatementGuard, frame: FrameType | None) -> Line | None:
        """The application's innermost line; where it has none there, the one that called `run`."""
        files = self._files
        while frame is not None:
            code = frame.f_code
            if code is _AT_THE_END:
                return None
            is_application = files.get(code.co_filename)
            if is_application is None:
                is_application = self._look_at(code.co_filename)
            if is_application:
                return Line(code.co_filename, frame.f_lineno, code.co_name)
            frame = frame.f_back
        called_from: tuple[CodeType, int] | None = getattr(guard, "called_from", None)
        if called_from is None or not self._look_at(called_from[0].co_filename):
            return None
        return Line(called_from[0].co_filename, called_from[1], called_from[0].co_name)

    def _look_at(self, file: str) -> bool:
        if len(self._files) >= _FILES_MAX:
            self._files.clear()
        found = self._files[file] = self._is_application(file)
        return found


def _beginning(do: Callable[[PoolProxiedConnection], None]) -> Callable[[PoolProxiedConnection], None]:
    def do_begin_recorded(connection: PoolProxiedConnection) -> None:
        do(connection)
        guard = guard_on(connection)
        if guard is not None:
            recording = _recording_of(guard)
            if recording.connected_at is None:
                recording.connected_at = time.monotonic()

    return do_begin_recorded


def _ending(
    do: Callable[[PoolProxiedConnection], None], name: str
) -> Callable[[PoolProxiedConnection], None]:
    def do_end_recorded(connection: PoolProxiedConnection) -> None:
        guard = guard_on(connection)
        began_at = time.monotonic()
        try:
            do(connection)
        finally:
            if guard is not None:
                recording = _recording_of(guard)
                if name == "commit" and guard.marker is not None:  # its time is COMMIT's
                    recording.statements.append(
                        Statement(began_at, 0.0, _MARKER, None, None, None, counts=True, failed=False)
                    )
                setattr(recording, name, Span(began_at, time.monotonic() - began_at))

    return do_end_recorded


def _recording_of(guard: StatementGuard) -> Recording:
    """The guard's recording, a new one at first."""
    recording: Recording | None = getattr(guard, "recording", None)
    if recording is None:
        guard.recording = recording = Recording()
    return recording


def _guard_of(unit: ObservedUnit) -> StatementGuard | None:
    if isinstance(unit, AsyncUnitOfWork):
        return unit._guard
    return unit.guard if isinstance(unit, UnitOfWork) else None
