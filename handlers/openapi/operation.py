"""A call, as the document at ``/openapi.json`` tells of it: what it takes, answers and refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from db.errors import (
    Conflict,
    DeadlinePassed,
    Invalid,
    OutcomeUnknown,
    PoolTimeout,
    PreconditionFailed,
    Unavailable,
)
from handlers.json_api import body as bodies, query as queries
from handlers.json_api.errors import Problem

JSON = "application/json"

# What may be answered before a handler has seen the request, or instead of it.
EDGE: tuple[Exception, ...] = (
    Problem(400, "the request line or a header is malformed"),
    Problem(408, "the request's headers did not arrive within 20 s"),
    Problem(431, "the request line and the headers are longer than 32768 bytes"),
    RuntimeError("nobody is told"),
)
BODY: tuple[Exception, ...] = (
    Problem(400, "the body is not JSON: Expecting value (line 1, column 1)"),
    Problem(413, "a body here has at most 1048576 bytes"),
    Problem(415, "the content type of a body here is application/json"),
)
WRITE: tuple[Exception, ...] = (
    Problem(403, "pages of another origin may not write here"),
    OutcomeUnknown(),
)
SESSION: tuple[Exception, ...] = (
    PoolTimeout("all 10 places of the writer stayed taken for 5 s"),
    DeadlinePassed(),
)
KEYED: tuple[Exception, ...] = (
    Problem(400, "Idempotency-Key has 1 to 255 printable ASCII characters"),
    Conflict("the request with this Idempotency-Key was applied, but its answer was not kept"),
    Invalid("this Idempotency-Key was used with another body or query"),
    Unavailable("the request with this Idempotency-Key is still under way"),
)
CONDITIONAL: tuple[Exception, ...] = (
    Problem(400, 'If-Match is * or a list of entity tags, each in quotes: "3-5a1b…"'),
    PreconditionFailed("the task has changed since"),
)
QUERY: tuple[Exception, ...] = (
    Problem(400, "query arguments are wrong: limit: should be greater than or equal to 1"),
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that is no error.

    Args:
        model: the type that its body has; None where there is no body.
        headers: what it carries besides what every answer does, by name: whether always.
    """

    status: int
    description: str
    model: Any = None
    example: Any = None
    media_type: str = JSON
    headers: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a path. Lives as long as the process.

    Args:
        name: what generated clients call it.
        query: the model that its query arguments are checked with; None where they are not looked at.
        body: the model of its body.
        body_examples: by name.
        headers: the request headers that it knows.
        refuses: errors that it may end with, besides those that its other parts bring along.
        session: whether it works with the database.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str = ""
    query: type[queries.Query] | None = None
    body: type[bodies.Body] | None = None
    body_examples: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    answers: tuple[Answer, ...]
    refuses: tuple[Exception, ...] = ()
    session: bool = True

    @property
    def errors(self) -> tuple[Exception, ...]:
        """Every error that it may end with."""
        reads = self.method == "get"
        return (
            *EDGE,
            *(QUERY if self.query is not None else ()),
            *(BODY if self.body is not None else ()),
            *(KEYED if "Idempotency-Key" in self.headers else ()),
            *(CONDITIONAL if "If-Match" in self.headers else ()),
            *self.refuses,
            *(SESSION if self.session else ()),
            *(() if reads else WRITE),
        )
