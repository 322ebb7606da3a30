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
from types import TracebackType
from typing import Any, ClassVar

from tornado.httputil import HTTPServerRequest
from tornado.log import app_log
from tornado.web import Application, HTTPError, RequestHandler

from conf.redaction import redacted
from handlers.lifecycle._tornado import AccessLine
from handlers.lifecycle.errors import http_error_of, is_fault
from handlers.request_id import request_id_of

log = logging.getLogger("onfinish.handlers")

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

    def __init__(self, instrumentation: Instrumentation, handler: Any) -> None:
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


class InstrumentedHandler(AccessLine):
    """Tornado's handler, with the wrappers of an instrumentation taken off its class.

    Lives as long as one request. Logs no data of the database's messages, unless the application's setting
    ``database_messages`` is on.
    """

    _instrumentation: ClassVar[Instrumentation | None] = None
    _instrumented_hooks: ClassVar[tuple[str, ...]] = ("log_exception",)

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        super().__init__(application, request, **kwargs)
        kind = type(self)
        if "log_exception" in kind.__dict__:  # perhaps an instrumentation has just seen its first instance
            kind._instrumentation = take_off(kind, kind._instrumented_hooks) or kind._instrumentation

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """As Tornado's: a refusal of the database's is an `HTTPError`, any other error has its stack."""
        if value is None:
            return
        told = http_error_of(value)
        if not isinstance(told, HTTPError) and not self.settings.get("database_messages"):
            told = redacted(told)
        super().log_exception(type(told), told, told.__traceback__ or tb)
        self._trace_exception(told)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As Tornado's; the traceback of ``serve_traceback`` has no data of the database's messages."""
        shows_all = self.settings.get("database_messages")
        if "exc_info" in kwargs and self.settings.get("serve_traceback") and not shows_all:
            error = redacted(kwargs["exc_info"][1])
            kwargs["exc_info"] = (type(error), error, error.__traceback__)
        super().write_error(status_code, **kwargs)

    def _write_access_line(self) -> None:
        """Write the access line, and end the trace with the status that was sent to the client."""
        try:
            self.log_answer()
        except Exception:
            log.exception("%s: the application's log_function failed", self._summary)
        if self._instrumentation is None:
            return
        if self._traced is not None:
            self._traced.ended(self.get_status())
        else:  # rejected before `prepare`
            self._instrumentation.call("on_finish", self)

    @property
    def _summary(self) -> str:
        """How messages and log lines name the request."""
        return f"{self.request.method} {type(self).__name__} [{request_id_of(self.request)}]"

    @property
    def _traced(self) -> Traced | None:
        """The trace of a request that has reached `prepare`."""
        return None

    def _trace_exception(self, error: BaseException | None) -> None:
        if self._instrumentation is None or error is None:
            return
        if self._traced is None:
            self._instrumentation.call("log_exception", self, type(error), error, error.__traceback__)
        elif is_fault(error):
            self._traced.failed(error)


def _context_of(task: asyncio.Task[Any] | None) -> contextvars.Context | None:
    if sys.version_info >= (3, 12):
        return None if task is None else task.get_context()
    # Python 3.11 has no public way to it, and a copy of the context is not the context.
    return next((each for each in gc.get_referents(task) if isinstance(each, contextvars.Context)), None)


def _nothing(*args: Any) -> None:
    """In place of the wrapped function, which has been called already."""
