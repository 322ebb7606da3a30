"""The id of a request: the caller's own where it is fit to be logged, else a new one."""

from __future__ import annotations

import os
import re

from tornado.httputil import HTTPServerRequest

HEADER = "X-Request-Id"

CHARS_MAX = 64

PATTERN = rf"[A-Za-z0-9._-]{{1,{CHARS_MAX}}}"

_FIT = re.compile(PATTERN)


def fit_or_new(given: str) -> str:
    """The id that a client gave where it is fit to be logged, else a new one."""
    return given if _FIT.fullmatch(given) else os.urandom(16).hex()


def request_id_of(request: HTTPServerRequest) -> str:
    """The request's id, the same at every call and at every attempt at the request."""
    request_id: str | None = getattr(request, "request_id", None)
    if request_id is None:
        request_id = fit_or_new(request.headers.get(HEADER, ""))
        request.request_id = request_id  # type: ignore[attr-defined]
    return request_id
