"""The access line, written when it is known what became of the request."""

from __future__ import annotations

import logging

from tornado.web import RequestHandler

from handlers.base import SessionHandler
from handlers.request_id import request_id_of

access_log = logging.getLogger("tornado.access")


def log_request(handler: RequestHandler) -> None:
    """Tornado's ``log_function``: one line a request, with what became of its work.

    ``201 POST /tasks (127.0.0.1) 4.21ms kept 5c0e…``. A 5xx is logged as a warning, the rest as information:
    what went wrong has a line of its own, and a client's mistakes are no trouble of the server's.
    """
    status = handler.get_status()
    request = handler.request
    work = handler.work if isinstance(handler, SessionHandler) else "-"
    access_log.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "%d %s %s (%s) %.2fms %s %s",
        status,
        request.method,
        request.path,
        request.remote_ip,
        request.request_time() * 1000,
        work,
        request_id_of(request),
    )
