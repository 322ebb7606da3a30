"""The event loop that a server process runs on."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from conf import Fault, Settings, SettingsError

R = TypeVar("R")


def check_event_loop(settings: Settings) -> None:
    """Raise where the configured loop is not available.

    Raises:
        SettingsError: ``http.event_loop`` asks for uvloop, which is not installed.
    """
    if settings.http.event_loop == "uvloop" and not _has_uvloop():
        path = "http.event_loop"
        way_out = "uvloop is not installed: pip install uvloop, or set auto"
        raise SettingsError([Fault(path, settings.origin_of(path), way_out)])


def run_loop(main: Coroutine[Any, Any, R], settings: Settings) -> R:
    """Run a process's whole work on the event loop of its settings, as `asyncio.run` does."""
    with asyncio.Runner(debug=settings.debug, loop_factory=_factory(settings)) as runner:
        return runner.run(main)


def _factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    chosen = settings.http.event_loop
    if chosen == "asyncio" or (chosen == "auto" and not _has_uvloop()):
        return None
    import uvloop

    return uvloop.new_event_loop


def _has_uvloop() -> bool:
    return importlib.util.find_spec("uvloop") is not None
