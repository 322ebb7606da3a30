"""Error responses to requests that are rejected before they have a handler."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from tornado.httputil import HTTPHeaders, RequestStartLine, format_timestamp

from handlers.access_log import log_answer
from handlers.json_api.cors import cors_headers
from handlers.json_api.errors import body_of
from handlers.json_api.security_headers import security_headers
from handlers.lifecycle.errors import Problem, title_of
from handlers.request_id import HEADER, fit_or_new


class Head(NamedTuple):
    """The head of a request, as far as it could be read. Lives as long as the request."""

    start_line: RequestStartLine
    headers: HTTPHeaders


class Caller(NamedTuple):
    """Where a request comes from. Lives as long as the request."""

    remote_ip: str
    protocol: str


def error_response(problem: Problem, head: Head | None, caller: Caller, settings: Mapping[str, Any]) -> bytes:
    """As `error_answer`, as it is sent, with ``Connection: close``."""
    headers, body = error_answer(problem, head, caller, settings)
    headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {problem.status_code} {title_of(problem.status_code)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def error_answer(
    problem: Problem, head: Head | None, caller: Caller, settings: Mapping[str, Any]
) -> tuple[dict[str, str], bytes]:
    """Headers and body of an error response; HEAD has none. Logs its access line.

    It has the same headers as a `ProblemHandler`'s: id, security headers, CORS.

    Args:
        problem: the error.
        head: the request's; None where it could not be read.
        caller: where the request comes from.
        settings: the application's; ``answered`` counts the response.
    """
    asked = head.headers if head is not None else HTTPHeaders()
    method, path = (head.start_line.method, head.start_line.path) if head is not None else ("-", "")
    path = path.partition("?")[0]
    request_id = fit_or_new(asked.get(HEADER, ""))
    log_answer(
        problem.status_code,
        method=method,
        path=path or "-",
        remote_ip=caller.remote_ip,
        took_s=0,
        work="-",
        request_id=request_id,
    )
    if (answered := settings.get("answered")) is not None:
        answered(method=method, status=problem.status_code, took_s=0.0)
    fields = body_of(problem, instance=path, request_id=request_id, outcome="not_applied")
    body = json.dumps(fields, separators=(",", ":")).encode()
    headers = {
        "Date": format_timestamp(time.time()),
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        HEADER: request_id,
        **security_headers(caller.protocol),
        **cors_headers(asked.get("Origin"), settings.get("cors_origins", ())),
        **problem.headers,
    }
    return headers, b"" if method == "HEAD" else body
