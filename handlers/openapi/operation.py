"""An operation as the document at ``/openapi.json`` describes it, declared at the handler's method.

::

    class TeamHandler(SessionHandler):
        @operation(
            name="get_team",
            tag=TEAMS,
            summary="A team",
            path_parameters=(TEAM_ID,),
            answers=(Answer(200, "The team.", Team, EXAMPLE),),
            errors=(NotFound("team", 1),),
        )
        async def get(self, team_id: str) -> None: ...

What a handler's class implies is not declared: the errors of a session, of a body, of a query, of an
``Idempotency-Key``, and the headers that belong to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conf import HttpSettings
from handlers.json_api.body import Body, refusal
from handlers.json_api.query import Query
from handlers.lifecycle.errors import Problem

JSON = "application/json"

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The numbers in force that a document names. Lives as long as it is made.

    Args:
        slots: how many units of work each pool has room for, by name: ``writer`` and ``reader``.
    """

    http: HttpSettings
    pool_timeout_s: float
    slots: Mapping[str, int]
    pool_max_waiting: int | None = None


Text = str | Callable[[Limits], str]
Error = Exception | Callable[[Limits], Exception]


@dataclass(frozen=True)
class Tag:
    """A group of operations."""

    name: str
    description: str


OPERATION = Tag("operation", "For operators of the service.")


@dataclass(frozen=True)
class PathParameter:
    """An argument of a handler's methods that a group of its route captures.

    Args:
        name: of the argument.
        schema: what the group matches, as JSON Schema.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    example: Any


@dataclass(frozen=True)
class Answer:
    """An answer that is no error.

    Args:
        model: the type that its body has; None where there is no body.
        headers: the names of those that it always carries, besides what every answer does.
        made: the path parameter that the body's ``id`` is a value of, where the answer is a new resource.
    """

    status: int
    description: str
    model: Any = None
    example: Any = None
    media_type: str = JSON
    headers: tuple[str, ...] = ()
    made: str = ""


def size_of(count: int) -> str:
    """A number of bytes as a text has it: 1 MiB."""
    for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if count % size == 0:
            return f"{count // size:,} {unit}"
    return f"{count:,} bytes"


def revalidated(description: str, model: Any, example: Any) -> tuple[Answer, ...]:
    """The answers of a GET that a client may keep: with an entity tag, and 304 where that still holds."""
    unchanged = "What the client has, as `If-None-Match` says, is still right."
    return (
        Answer(200, description, model, example, headers=("ETag",)),
        Answer(304, unchanged, headers=("ETag",)),
    )


def body_faults(*faults: tuple[str, str]) -> Problem:
    """The answer to a body with these faults, each a path without its first slash, and a sentence."""
    return refusal([(tuple(path.split("/")), message) for path, message in faults])


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a method takes, answers and refuses. Lives as long as the method that it is declared at.

    Args:
        name: what generated clients call it.
        description: a text, or a function of the limits in force that returns one.
        path_parameters: one for each group of the route.
        query: the model that its query arguments are checked with; None where they are ignored.
        body: the model of its body.
        body_examples: by name.
        headers: the request headers that it reads, besides those that its class implies.
        errors: those that it may end with, besides those that its class implies; each an error, or a
            function of the limits in force that returns one.
    """

    name: str
    tag: Tag
    summary: str
    description: Text = ""
    path_parameters: tuple[PathParameter, ...] = ()
    query: type[Query] | None = None
    body: type[Body] | None = None
    body_examples: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    answers: tuple[Answer, ...]
    errors: tuple[Error, ...] = ()

    def __call__(self, method: Method) -> Method:
        """Declare the operation at a handler's method, which stays as it is."""
        method.__dict__["operation"] = self
        return method


operation = Operation  # by the name that a decorator has
