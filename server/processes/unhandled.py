"""What is raised where no caller waits: in a thread of the application's own, in a finalizer."""

from __future__ import annotations

import logging
import sys
import threading

log = logging.getLogger("onfinish.server")


def log_unhandled() -> None:
    """Log it: Python's own hooks write to the standard error, with a database's message whole.

    Changes `threading.excepthook` and `sys.unraisablehook`, for as long as the process lives.
    """
    threading.excepthook = _of_thread
    sys.unraisablehook = _of_finalizer


def _of_thread(raised: threading.ExceptHookArgs) -> None:
    if raised.exc_value is not None and not isinstance(raised.exc_value, SystemExit):
        name = raised.thread.name if raised.thread is not None else "?"
        log.error("raised in the thread %s, which has ended", name, exc_info=raised.exc_value)


def _of_finalizer(raised: sys.UnraisableHookArgs) -> None:
    if raised.exc_value is not None:
        what = raised.err_msg or "Exception ignored in"
        log.error("%s: %s", what, type(raised.object).__qualname__, exc_info=raised.exc_value)
