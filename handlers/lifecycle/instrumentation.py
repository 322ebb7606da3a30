"""Error trackers and tracers that wrap Tornado's hooks, and rely on the order of plain Tornado's calls.

Error trackers wrap ``RequestHandler.log_exception`` itself (Sentry). Tracers wrap the hooks of each class
of handlers (OpenTelemetry): a span begins in `prepare`, and ends in `log_exception` or `on_finish` with the
status that has been sent by then. Here an exception may be a response or cause a retry, and `on_finish` only
starts the COMMIT. So a class's wrappers are taken off, and called once a request, with the status that the
client reads.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tornado.log import app_log
from tornado.web import RequestHandler

Wrapper = Callable[[Callable[..., None], object, tuple[Any, ...], dict[str, Any]], object]
"""wrapt's signature: called with the wrapped function, the instance, and the arguments."""


def report_to_trackers(handler: RequestHandler, fault: BaseException) -> None:
    """Call Tornado's own `log_exception`, which error trackers wrap, without the record that it would log."""
    with _unlogged():
        RequestHandler.log_exception(handler, type(fault), fault, fault.__traceback__)


@contextmanager
def _unlogged() -> Iterator[None]:
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    app_log.addFilter(passes)
    try:
        yield
    finally:
        app_log.removeFilter(passes)


class Instrumentation:
    """The wrappers of one class's hooks. Lives as long as that class."""

    def __init__(self, wrappers: dict[str, list[Wrapper]]) -> None:
        self._wrappers = wrappers

    def call(self, hook: str, handler: RequestHandler, *args: Any) -> None:
        """Call the wrappers of a hook, with a wrapped function that does nothing."""
        for wrapper in self._wrappers.get(hook, ()):
            wrapper(_nothing, handler, args, {})


def take_off(handler: type, hooks: tuple[str, ...]) -> Instrumentation | None:
    """Take off wrapt's wrappers of hooks of this very class. None where there is none."""
    wrappers: dict[str, list[Wrapper]] = {}
    for name in hooks:
        hook: Any = handler.__dict__.get(name)
        while hasattr(hook, "_self_wrapper"):
            wrappers.setdefault(name, []).append(hook._self_wrapper)
            hook = hook.__wrapped__
        if name in wrappers:
            delattr(handler, name)
            if getattr(handler, name) is not hook:  # it is the class's own, not inherited
                setattr(handler, name, hook)
    return Instrumentation(wrappers) if wrappers else None


class Traced:
    """One request of a tracer. Lives from its first attempt's `prepare` to the end of its response."""

    def __init__(self, instrumentation: Instrumentation, handler: RequestHandler) -> None:
        self._instrumentation = instrumentation
        self._handler = handler
        self._task = asyncio.current_task()
        self._context = _context_of(self._task)
        self._has_ended = False
        instrumentation.call("prepare", handler)

    def failed(self, fault: BaseException) -> None:
        """A fault of the program has ended the request; its response is still to come."""
        self._end(500, "log_exception", type(fault), fault, fault.__traceback__)

    def ended(self, status: int) -> None:
        """The response has been sent."""
        self._end(status, "on_finish")

    def _end(self, status: int, hook: str, *args: Any) -> None:
        if self._has_ended:  # OpenTelemetry would count it twice, as it does with plain Tornado
            return
        self._has_ended = True
        self._handler.set_status(status)
        # Context variables that `prepare` has set can be reset in the same context only.
        if self._context is None or asyncio.current_task() is self._task:
            self._instrumentation.call(hook, self._handler, *args)
        else:
            self._context.run(self._instrumentation.call, hook, self._handler, *args)


def _context_of(task: asyncio.Task[Any] | None) -> contextvars.Context | None:
    if sys.version_info >= (3, 12):
        return None if task is None else task.get_context()
    # Python 3.11 has no public way to it, and a copy of the context is not the context.
    return next((each for each in gc.get_referents(task) if isinstance(each, contextvars.Context)), None)


def _nothing(*args: Any) -> None:
    """In place of the wrapped function, which has been called already."""
