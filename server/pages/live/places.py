"""Lines of an application's code, found in the frames of a unit of work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from db.work.recorder import Line
from server.monitoring.tracebacks import source_line

_OURS = {
    "conf": (),
    "db": ("board",),
    "handlers": ("board",),
    "server": ("compare",),
}
"""The packages of the kernel, with the rooms in them that are an application's."""

_LIBRARIES = {str(Path(sys.prefix).resolve()), str(Path(sys.base_prefix).resolve())}

_KEPT = 2048


class Place(NamedTuple):
    """A line of code: ``db/board/tasks.py:214`` in ``update_task``, and its text."""

    file: str
    line: int
    function: str
    text: str


def place_of(calls: Iterable[FrameType]) -> Place | None:
    """The innermost line that is an application's; None where there is none.

    Args:
        calls: frames, innermost first.
    """
    for frame in calls:
        code = frame.f_code
        if is_application(code.co_filename):
            return place_at(Line(code.co_filename, frame.f_lineno, code.co_name))
    return None


def place_at(line: Line) -> Place:
    """A line as it is shown."""
    return Place(_shown(line.file), line.number, line.function, _line(line.file, line.number))


@lru_cache(maxsize=_KEPT)
def is_application(file: str) -> bool:
    """Whether a file of code is an application's: neither the kernel's nor a library's."""
    if file.startswith("<"):  # frozen, or made at run time
        return False
    if file.startswith(f"{_ROOT}/"):
        package, _, rest = file.removeprefix(f"{_ROOT}/").partition("/")
        if package in _OURS:
            return rest.partition("/")[0] in _OURS[package]
    if "site-packages" in file or "dist-packages" in file:
        return False
    return not any(file.startswith(f"{library}/lib") for library in _LIBRARIES)


_ROOT = Path(__file__).resolve().parents[3]


@lru_cache(maxsize=_KEPT)
def _shown(file: str) -> str:
    """The path as it is read: from the folder that all packages are in, or from the working folder."""
    for folder in (_ROOT, Path.cwd()):
        try:
            return str(Path(file).relative_to(folder))
        except ValueError:
            continue
    return file


@lru_cache(maxsize=_KEPT)
def _line(file: str, line: int) -> str:
    return source_line(file, line)[:200]
