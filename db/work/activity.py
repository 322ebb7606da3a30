"""What a unit of work is doing at this moment, as an observer finds it out without a word from the unit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Literal, NamedTuple

from db import statement_hooks
from db.backend import Backend
from db.capacity.registry import UnitRegistry
from db.engines import engine
from db.guard import StatementGuard
from db.observer import ObservedUnit
from db.work.async_unit_of_work import AsyncUnitOfWork
from db.work.unit_of_work import UnitOfWork

Stage = Literal["queued", "call", "between"]
"""It waits for a slot; a call of it is under way, in a thread or a greenlet; neither."""

Step = Literal["statement", "commit", "rollback", "connect", "lock", "python"]
"""What a call is at: one of the driver's calls, a lock that no server knows of, or code of the program."""

_MARKS: Mapping[tuple[str, str], Step] = {
    (statement_hooks.__name__, "do_guarded"): "statement",
    (engine.__name__, "do_commit"): "commit",
    (engine.__name__, "do_rollback"): "rollback",
    (engine.__name__, "connect_guarded"): "connect",
}
"""The functions of ours that stand around the driver's calls, by module and name."""

_DEPTH_MAX = 200


class Activity(NamedTuple):
    """What a unit of work is doing. Not to be kept: a frame keeps all its locals alive.

    ``frame``: the innermost one of its thread or greenlet, while a call is under way and its frame is known.
    ``queued_at`` and ``deadline_at`` are on the clock of `time.monotonic`. ``server_pid``: of its connection.
    """

    stage: Stage
    step: Step
    frame: FrameType | None
    queued_at: float | None
    deadline_at: float | None
    server_pid: int | None
    statements: int


def activity_of(
    unit: ObservedUnit, *, registry: UnitRegistry, backend: Backend, threads: Mapping[int, FrameType]
) -> Activity:
    """What a unit of work is doing. For the event loop.

    Args:
        registry: of the open units.
        backend: of the endpoint that the unit works at.
        threads: `sys._current_frames()`, asked once for many units.
    """
    guard: StatementGuard
    queued_at = None
    if isinstance(unit, AsyncUnitOfWork):
        guard = unit._unit.guard
        stage: Stage = "call" if unit._call is not None else "between"
        if unit._running and not unit.has_slot:
            stage, queued_at = "queued", unit.queued_at
        worker = guard._worker
    elif isinstance(unit, UnitOfWork):
        guard, stage, worker = unit.guard, "call", registry.thread_of(unit)
    else:
        raise TypeError(f"{unit!r} is no unit of work of ours")
    frame: FrameType | None = None
    if stage == "call":
        frame = threads.get(worker) if isinstance(worker, int) else getattr(worker, "gr_frame", None)
    return Activity(
        stage=stage,
        step=_step_of(frame, backend.lock_wait),
        frame=frame,
        queued_at=queued_at,
        deadline_at=guard.deadline_at,
        server_pid=_server_pid(guard, backend),
        statements=guard.statements,
    )


def calls_of(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, innermost first."""
    for _ in range(_DEPTH_MAX):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _step_of(frame: FrameType | None, lock_wait: tuple[str, str] | None) -> Step:
    for call in calls_of(frame):
        place = str(call.f_globals.get("__name__", "")), call.f_code.co_name
        if place == lock_wait:
            return "lock"
        if place in _MARKS:
            return _MARKS[place]
    return "python"


def _server_pid(guard: StatementGuard, backend: Backend) -> int | None:
    connection = guard._connection
    if connection is not None:
        with contextlib.suppress(Exception):  # it may be closed by its thread just now
            return backend.server_pid(connection)
    return None
