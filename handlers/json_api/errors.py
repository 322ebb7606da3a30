"""Errors as responses: one table from error to status, problem+json, and what is logged.

RFC 9457, https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired
from urllib.parse import quote

from pydantic import ConfigDict, Field, with_config
from sqlalchemy.exc import DBAPIError
from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError
from typing_extensions import TypedDict  # typing's own is enough for pydantic from 3.12 on

from conf.redaction import code_of
from db import errors as db
from handlers.lifecycle.retry import CONFLICTS

log = logging.getLogger("onfinish.handlers")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left. It is logged, and never read."""

_STATUS: Sequence[tuple[type[BaseException], int]] = (
    (db.NotFound, 404),
    (db.Conflict, 409),
    (db.Invalid, 422),
    (db.PreconditionFailed, 412),
    (db.RetryableConflict, 503),
    (db.Unavailable, 503),
    (db.OutcomeUnknown, 503),
    (db.DeadlinePassed, 504),
    (db.ClientDisconnected, CLIENT_CLOSED_REQUEST),
    (StreamClosedError, CLIENT_CLOSED_REQUEST),
)

RETRY_AFTER_S = 1
"""``Retry-After`` of a 503 whose error names no other time."""

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


class Problem(Exception):
    """An error response, raised.

    Args:
        status: 400 to 599.
        detail: a sentence for the client.
        errors: every fault of a body, each ``{"pointer": …, "message": …}``.
        headers: to be sent with it.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


def meant(error: BaseException | None) -> BaseException | None:
    """What an exception group comes down to; any other error is what is meant.

    An `asyncio.TaskGroup` raises nothing else, also for one task that failed. Where all members are answered
    by the same status, the result is the most severe of them: an unknown outcome before all others, a
    conflict, which may be retried, only where all are. A group with a fault of the program in it is returned
    as it is.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    members = list(members_of(error))
    statuses = {status_of(member) for member in members}
    if len(statuses) > 1 or 500 in statuses:
        return error
    return min(
        members, key=lambda member: (not isinstance(member, db.OutcomeUnknown), isinstance(member, CONFLICTS))
    )


def members_of(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, and in the groups in it; of any other error, that."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from members_of(member)
    else:
        yield error


def leaves_unknown(error: BaseException | None) -> bool:
    """Whether it is not known, after this error, what became of the work."""
    unknown = (db.OutcomeUnknown, db.TransactionEnded)
    return error is not None and any(isinstance(member, unknown) for member in members_of(error))


def status_of(error: BaseException | None, default: int = 500) -> int:
    """The status that answers an error; ``default`` for one that the table does not have."""
    error = meant(error)
    if isinstance(error, Problem):
        return error.status
    if isinstance(error, HTTPError):
        return error.status_code
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return default


def problem_of(error: BaseException | None, status: int) -> Problem:
    """An error as the problem that a client reads: of a fault of the program, only that there was one."""
    error = meant(error)
    if isinstance(error, Problem):
        return error
    headers = {"Retry-After": str(getattr(error, "retry_after_s", RETRY_AFTER_S))} if status == 503 else {}
    if isinstance(error, db.Invalid):
        return Problem(
            status, str(error), errors=[{"pointer": at, "message": text} for at, text in error.faults]
        )
    if isinstance(error, HTTPError):
        unread = isinstance(error.__cause__, HTTPInputError)  # Tornado reads forms before any handler
        message = "the body is not the form that its content type says" if unread else title_of(status)
        return Problem(status, error.reason or message, headers=headers)
    if status < 500 or isinstance(
        error, db.RetryableConflict | db.Unavailable | db.OutcomeUnknown | db.DeadlinePassed
    ):
        return Problem(status, str(error) if error else title_of(status), headers=headers)
    return Problem(status, "the server failed to answer this request", headers=headers)


def title_of(status: int) -> str:
    """What a status is called."""
    return http.client.responses.get(status, "Unknown")


def body_of(problem: Problem, *, instance: str, request_id: str, outcome: Any) -> ProblemBody:
    """A problem as the JSON object that is sent."""
    body: ProblemBody = {
        "type": "about:blank",
        "title": title_of(problem.status),
        "status": problem.status,
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


def is_fault(error: BaseException | None) -> bool:
    """Whether an error is a fault of the program's, to be logged with its stack; else it is an answer."""
    error = meant(error)
    return (
        status_of(error) >= 500
        and error is not None
        and not isinstance(error, HTTPError | db.RetryableConflict | db.Unavailable | db.DeadlinePassed)
    )


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
    if isinstance(error, HTTPError):
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
