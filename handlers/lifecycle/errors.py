"""Errors as Tornado's `HTTPError`: one table from error to status, for every face that a handler has."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping, Sequence

from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from db import errors as db
from handlers.lifecycle.retry import CONFLICTS

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

_KINDS = tuple(kind for kind, _ in _STATUS)

RETRY_AFTER_S = 1
"""``Retry-After`` of a 503 whose error names no other time."""


class Problem(HTTPError):
    """An error response, raised: an `HTTPError` with a sentence for the client, and headers.

    Tornado's own `write_error` shows its status; an override finds all of it in ``exc_info``; `ApiHandler`
    answers it as RFC 9457 has it.

    Args:
        status: 400 to 599.
        detail: a sentence for the client.
        errors: every fault of a body, each ``{"pointer": …, "message": …}``.
        headers: to be sent with it.
        log_message: as of Tornado's `HTTPError`.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        log_message: str | None = None,
    ) -> None:
        super().__init__(status, log_message)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.error: BaseException | None = None
        """The error that this one stands for, where `http_error_of` has made it."""

    def __str__(self) -> str:
        return self.detail


def meant(error: BaseException | None) -> BaseException | None:
    """What an exception group comes down to; any other error is what is meant.

    An `asyncio.TaskGroup` raises nothing else, also for one task that failed. Where all members are answered
    by the same status, the result is the most severe of them: an unknown outcome before all others, a
    conflict, which may be retried, only where all are. A group with a fault of the program in it is returned
    as it is.
    """
    if isinstance(error, Problem):
        return meant(error.error) if error.error is not None else error
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
    elif isinstance(error, Problem) and error.error is not None:
        yield from members_of(error.error)
    else:
        yield error


def leaves_unknown(error: BaseException | None) -> bool:
    """Whether it is not known, after this error, what became of the work."""
    unknown = (db.OutcomeUnknown, db.TransactionEnded)
    return error is not None and any(isinstance(member, unknown) for member in members_of(error))


def status_of(error: BaseException | None, default: int = 500) -> int:
    """The status that answers an error; ``default`` for one that the table does not have."""
    error = meant(error)
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


def http_error_of(error: BaseException) -> BaseException:
    """The kernel's own errors as a `Problem`, for handlers that know Tornado's errors alone; others as is.

    A fault of the program's stays one: Tornado answers it with 500.
    """
    status = status_of(error)
    if isinstance(error, HTTPError) or not isinstance(meant(error), _KINDS):
        return error
    told = problem_of(error, status)
    log_message = told.detail if status >= 500 else None
    problem = Problem(status, told.detail, errors=told.errors, headers=told.headers, log_message=log_message)
    problem.error = problem.__cause__ = error
    return problem


def title_of(status: int) -> str:
    """What a status is called."""
    return http.client.responses.get(status, "Unknown")


def is_fault(error: BaseException | None) -> bool:
    """Whether an error is a fault of the program's, to be logged with its stack; else it is an answer."""
    error = meant(error)
    return (
        status_of(error) >= 500
        and error is not None
        and not isinstance(error, HTTPError | db.RetryableConflict | db.Unavailable | db.DeadlinePassed)
    )
