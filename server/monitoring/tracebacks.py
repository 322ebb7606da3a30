"""Tracebacks that are cheap to record, and formatted only when they are read."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
import tokenize
import weakref
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from server.edge._tornado import EXECUTE

_DEPTH_MAX = 20
"""The innermost calls: below them is the event loop."""

_LINES_MAX = 512
"""Lines that are kept: some 50 KB."""


class Origin(NamedTuple):
    """The stack at the start of something: code and positions, no frames, which would keep locals alive."""

    calls: tuple[tuple[CodeType, int], ...]
    task: weakref.ref[asyncio.Task[Any]] | None

    def stack(self) -> str:
        """The stack at that time, outermost call first, in the form of a traceback."""
        return "".join(_line(code, _line_number(code, at)) for code, at in reversed(self.calls))

    def stack_now(self) -> str:
        """Where the task that started it waits at this moment; empty where it has ended."""
        return "".join(_line(frame.f_code, frame.f_lineno) for frame in self.frames_now())

    def frames_now(self) -> list[FrameType]:
        """The frames of the task that started it, outermost first; none where it has ended.

        Not to be kept: a frame keeps all its locals alive.
        """
        task = self.task() if self.task is not None else None
        return [] if task is None or task.done() else [*_frames(task.get_coro())]


def origin_here(*, skip: int) -> Origin:
    """The stack of the caller, without the ``skip`` innermost calls. Takes about two microseconds."""
    calls: list[tuple[CodeType, int]] = []
    frame: FrameType | None = sys._getframe(skip + 1)
    while frame is not None and len(calls) < _DEPTH_MAX:
        code = frame.f_code
        calls.append((code, frame.f_lasti))
        if code is EXECUTE:
            break
        frame = frame.f_back
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return Origin(tuple(calls), None if task is None else weakref.ref(task))


def stack_of_thread(thread: int) -> str:
    """The stack of a thread at this moment; empty where there is no such thread."""
    frame = sys._current_frames().get(thread)
    lines: list[str] = []
    while frame is not None and len(lines) < _DEPTH_MAX:
        lines.append(_line(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return "".join(reversed(lines))


def _frames(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a waiting coroutine, and of those that it awaits; asyncio shows the first only."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            return
        yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _line_number(code: CodeType, at: int) -> int | None:
    return next((line for start, end, line in code.co_lines() if start <= at < end), None)


def _line(code: CodeType, number: int | None) -> str:
    text = "" if number is None else source_line(code.co_filename, number)
    return f'  File "{code.co_filename}", line {number or "?"}, in {code.co_name}\n' + (
        f"    {text}\n" if text else ""
    )


@functools.lru_cache(_LINES_MAX)
def source_line(path: str, number: int) -> str:
    """A line of a source file. Not by `linecache`, which keeps all of every file in memory.

    Most lines of a stack are the same each time, and a file is read from its beginning. On a machine that is
    short of CPU the loop is late for that reason alone, and its stacks took 5 % of what there was.
    """
    try:
        with tokenize.open(path) as lines:
            return next(itertools.islice(lines, number - 1, None), "").strip()
    except (OSError, SyntaxError, ValueError):  # it is in an archive, was removed, or is no text
        return ""
