"""What wraps Tornado's hooks from outside, and is to see them called as plain Tornado calls them.

Error trackers wrap ``RequestHandler.log_exception`` itself (Sentry). Tracers wrap the hooks of each class
of handlers (OpenTelemetry): a span begins in `prepare`, and ends in `log_exception` or `on_finish` with the
status that has been sent by then. Here a raised error may be an answer, or run the request again, and
`on_finish` only begins the COMMIT. So a class's wrappers are taken off, and called once a request, with the
status that the client reads.
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
"""As wrapt has it: called with what it wraps, with the instance, and with the arguments."""


def tell_trackers(handler: RequestHandler, fault: BaseException) -> None:
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
        """Call what wraps a hook, round nothing."""
        for wrapper in self._wrappers.get(hook, ()):
            wrapper(_nothing, handler, args, {})


def take_off(handler: type, hooks: tuple[str, ...]) -> Instrumentation | None:
    """Take off what wrapt has put round hooks of this very class. None where there is nothing."""
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
    """One request as a tracer sees it. Lives from its first attempt's `prepare` until its answer has left."""

    def __init__(self, instrumentation: Instrumentation, handler: RequestHandler) -> None:
        self._instrumentation = instrumentation
        self._handler = handler
        self._task = asyncio.current_task()
        self._context = _context_of(self._task)
        self._has_ended = False
        instrumentation.call("prepare", handler)

    def failed(self, fault: BaseException) -> None:
        """A fault of the program's has ended the request; its answer is still to come."""
        self._end(500, "log_exception", type(fault), fault, fault.__traceback__)

    def ended(self, status: int) -> None:
        """The client has been sent its answer."""
        self._end(status, "on_finish")

    def _end(self, status: int, hook: str, *args: Any) -> None:
        if self._has_ended:  # OpenTelemetry's would count it twice, as it does with plain Tornado
            return
        self._has_ended = True
        self._handler.set_status(status)
        # What `prepare` has put into context variables can be taken back in the same context only.
        if self._context is None or asyncio.current_task() is self._task:
            self._instrumentation.call(hook, self._handler, *args)
        else:
            self._context.run(self._instrumentation.call, hook, self._handler, *args)


def _context_of(task: asyncio.Task[Any] | None) -> contextvars.Context | None:
    if sys.version_info >= (3, 12):
        return None if task is None else task.get_context()
    # Python 3.11 keeps it to itself, and a copy of the context is not the context.
    return next((each for each in gc.get_referents(task) if isinstance(each, contextvars.Context)), None)


def _nothing(*args: Any) -> None:
    """What is wrapped has been called already."""
