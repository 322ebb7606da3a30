"""The access line, written when it is known what became of the request."""

from __future__ import annotations

import logging

from tornado.web import RequestHandler

from handlers.base import SessionHandler
from handlers.request_id import request_id_of

access_log = logging.getLogger("tornado.access")

_LINE = "%d %s %s (%s) %.2fms %s %s"
_METHOD_CHARS_MAX = 32
_PATH_CHARS_MAX = 500
"""Enough to recognise a path; it may have 30 KB."""


def log_request(handler: RequestHandler) -> None:
    """Tornado's ``log_function``: one line a request, with what became of its work.

    ``201 POST /tasks (127.0.0.1) 4.21ms 3sql kept 5c0e…``, where 3 statements were sent. A 5xx is logged as
    a warning, the rest as information: an error has a line of its own, and a client's mistakes need no
    attention.
    """
    status = handler.get_status()
    if not access_log.isEnabledFor(_level_of(status)):
        return
    request = handler.request
    log_answer(
        status,
        method=request.method or "-",
        path=request.path,
        remote_ip=request.remote_ip or "-",
        took_s=request.request_time(),
        work=handler.work_outcome if isinstance(handler, SessionHandler) else "-",
        request_id=request_id_of(request),
        statements=handler._statements if isinstance(handler, SessionHandler) else None,
    )


def log_answer(
    status: int,
    *,
    method: str,
    path: str,
    remote_ip: str,
    took_s: float,
    work: str,
    request_id: str,
    statements: int | None = None,
) -> None:
    """Log one line for one answer, of a handler or of the server's edge.

    Args:
        path: as the client sent it, however long.
        statements: how many statements it took; None for an answer that has no session.
    """
    level = _level_of(status)
    if not access_log.isEnabledFor(level):
        return
    shown = path if len(path) <= _PATH_CHARS_MAX else f"{path[:_PATH_CHARS_MAX]}…"
    if statements is not None:
        work = f"{statements}sql {work}"
    args = (status, method[:_METHOD_CHARS_MAX], shown, remote_ip, took_s * 1000, work, request_id)
    # Logger.log would search the stack for the calling line, which is this one.
    access_log.handle(access_log.makeRecord(access_log.name, level, *_HERE, _LINE, args, None, "log_answer"))


def _level_of(status: int) -> int:
    return logging.WARNING if status >= 500 else logging.INFO


_HERE = log_answer.__code__.co_filename, log_answer.__code__.co_firstlineno
"""The file and the line that an access line's record names."""
