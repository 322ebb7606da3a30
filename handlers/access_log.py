"""The access line, written when it is known what became of the request."""

from __future__ import annotations

import logging

from tornado.web import RequestHandler

from handlers.base import SessionHandler
from handlers.request_id import request_id_of

access_log = logging.getLogger("tornado.access")

_METHOD_CHARS_MAX = 32
_PATH_CHARS_MAX = 500
"""Enough to recognise a path; it may have 30 KB."""


def log_request(handler: RequestHandler) -> None:
    """Tornado's ``log_function``: one line a request, with what became of its work.

    ``201 POST /tasks (127.0.0.1) 4.21ms 3sql kept 5c0e…``, where 3 statements were sent. A 5xx is logged as
    a warning, the rest as information: an error has a line of its own, and a client's mistakes need no
    attention.
    """
    request = handler.request
    log_answer(
        handler.get_status(),
        method=request.method or "-",
        path=request.path,
        remote_ip=request.remote_ip or "-",
        took_s=request.request_time(),
        work=handler.work_outcome if isinstance(handler, SessionHandler) else "-",
        request_id=request_id_of(request),
        statements=handler.statements if isinstance(handler, SessionHandler) else None,
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
    access_log.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "%d %s %s (%s) %.2fms %s%s %s",
        status,
        method[:_METHOD_CHARS_MAX],
        path if len(path) <= _PATH_CHARS_MAX else f"{path[:_PATH_CHARS_MAX]}…",
        remote_ip,
        took_s * 1000,
        "" if statements is None else f"{statements}sql ",
        work,
        request_id,
    )
