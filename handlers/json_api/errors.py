"""Errors as problem+json, and as log lines.

RFC 9457, https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, NotRequired
from urllib.parse import quote

from pydantic import ConfigDict, Field, with_config
from sqlalchemy.exc import DBAPIError
from tornado.web import HTTPError
from typing_extensions import TypedDict  # typing's own is enough for pydantic from 3.12 on

from conf.redaction import code_of
from db import errors as db
from handlers.lifecycle.errors import Problem, meant, status_of, title_of

log = logging.getLogger("onfinish.handlers")

FAULTS_MAX = 1000
"""How many faults of a body are listed. A few megabytes can have a million; no more are looked for."""

_MESSAGE_CHARS_MAX = 500

CLOSED = ConfigDict(extra="forbid", strict=True)
"""Of the model of a response: a field that the model does not have is a fault."""

_IN_URI = "/%:=&?~#+!$,;'@()*[]"  # what a path may hold as it is; Tornado lets any byte above space pass


@with_config(CLOSED)
class Fault(TypedDict):
    """What is wrong with one field of a body."""

    pointer: Annotated[str, Field(description="RFC 6901; empty where it is the whole body.")]
    message: str


@with_config(CLOSED)
class ProblemBody(TypedDict):
    """An error, as RFC 9457 writes it."""

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    instance: Annotated[str, Field(description="The path that was asked.")]
    request_id: Annotated[str, Field(description="As in `X-Request-Id`, and in the log.")]
    outcome: Annotated[
        Literal["not_applied", "applied", "unknown"],
        Field(description="What has become of the request's work: an error does not always mean nothing."),
    ]
    errors: NotRequired[
        Annotated[
            list[Fault], Field(description=f"Of 422: every fault of the body, or the first {FAULTS_MAX}.")
        ]
    ]
    traceback: NotRequired[
        Annotated[str, Field(description="Of 5xx, where `debug` is on; never in production.")]
    ]


class Debug(TypedDict):
    """What a response shows of a fault, for developers."""

    error: str
    statement: NotRequired[str]
    line: str


class FaultBody(ProblemBody):
    """A 500, where `log.database_messages` is on. No client may rely on it: /openapi.json has no 500."""

    debug: Debug


def body_of(problem: Problem, *, instance: str, request_id: str, outcome: Any) -> ProblemBody:
    """A problem as the JSON object that is sent."""
    body: ProblemBody = {
        "type": "about:blank",
        "title": title_of(problem.status_code),
        "status": problem.status_code,
        "detail": problem.detail,
        "instance": quote(instance, safe=_IN_URI, encoding="latin-1"),
        "request_id": request_id,
        "outcome": outcome,
    }
    if problem.errors is not None:
        body["errors"] = [
            Fault(pointer=fault["pointer"], message=fault["message"]) for fault in problem.errors
        ]
    return body


def log_fault(summary: str, fault: BaseException) -> None:
    """Log a fault of the program's with its stack."""
    kind = type(fault)
    log.error("%s: %s.%s: %s", summary, kind.__module__, kind.__qualname__, fault, exc_info=fault)


def log_refusal(summary: str, error: BaseException | None) -> None:
    """Log an error that is an answer: by a line, or not at all.

    A constraint that refused a row is logged with its name, since the response may have a general sentence.
    """
    error = meant(error)
    status = status_of(error)
    if isinstance(error, HTTPError) and not isinstance(error, Problem):
        if error.log_message:
            level = logging.WARNING if status >= 500 else logging.INFO  # a client's mistake
            # The error too, without a character of it: its message may quote what it was raised from.
            log.log(level, "%d %s: %s%.0s", status, summary, error.get_message(), error)
    elif isinstance(error, db.Conflict) and isinstance(error.__cause__, DBAPIError):
        named = error.constraint or error.table or "a constraint"
        log.info("%d %s: refused by %s (%s)", status, summary, named, code_of(error.__cause__))
    elif error is not None and status >= 500:
        log.warning("%d %s: %s%s", status, summary, error, _drivers_message(error))


def _drivers_message(error: BaseException) -> str:
    """Why the database cannot be reached, for operators: a password, a port, a certificate.

    For the log alone: it may name a host and a user. Of other errors the driver's message may hold rows.
    """
    cause = getattr(error.__cause__, "orig", None)
    if cause is None or not isinstance(error, db.Unreachable):
        return ""
    message = "; ".join(line.strip() for line in str(cause).splitlines() if line.strip())
    return f" ({message[:_MESSAGE_CHARS_MAX]})" if message else ""
