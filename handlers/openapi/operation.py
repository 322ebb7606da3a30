"""An operation: what a handler's method takes and answers, declared there, served and described.

::

    class TeamsHandler(ApiHandler):
        @operation(answer=Team, status=201)
        async def post(self, new: TeamNew) -> teams.Team:
            return await self.run(teams.create_team, self.session, name=new.name)

What the method takes is read from its signature: a `Body` and a `Query` are checked and handed to it, and
other parameters are those of the path. What it returns is its answer. The document at ``/openapi.json`` has
all of it, and what a handler's class implies besides: the errors of a session, of a body, of a query, of an
``Idempotency-Key``, and the headers that belong to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import getdoc
from typing import Any

from conf import HttpSettings
from handlers.json_api.body import Body, refusal
from handlers.json_api.query import Query
from handlers.lifecycle.errors import Problem
from handlers.openapi.signature import Signature, answering, words

JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The numbers in force that a document names. Lives as long as it is made.

    Args:
        slots: how many units of work each pool has room for, by name: ``writer`` and ``reader``.
        write_tokens: whether writes have tokens.
    """

    http: HttpSettings
    pool_timeout_s: float
    slots: Mapping[str, int]
    pool_max_waiting: int | None = None
    write_tokens: bool = False


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


_EXAMPLES: Mapping[str, Any] = {"integer": 1, "number": 1.5, "boolean": True}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a method takes, answers and refuses. Lives as long as the method that it is declared at.

    Args:
        answer: the type of the answer's body: what the method returns is read by it, an object by its
            attributes, and sent. None: the method answers by itself, as any of Tornado's.
        status: of that answer.
        name: what generated clients call it; by default from the handler's and the method's: ``post_teams``.
        tag: the group that it stands in; by default from the name of the handler's module.
        summary: by default the first line of the method's docstring.
        description: a text, or a function of the limits in force that returns one.
        path_parameters: one for each group of the route; by default from the method's parameters.
        query: the model of its query arguments, for a method that reads them by itself.
        body: the model of its body, for a method that reads it by itself.
        body_examples: by name.
        headers: the request headers that it reads, besides those that its class implies.
        answers: in place of ``answer``, where there are several, or more is to be said of one.
        errors: those that it may end with, besides those that its class implies; each an error, or a
            function of the limits in force that returns one.
    """

    answer: Any = None
    status: int = 200
    name: str = ""
    tag: Tag = Tag("", "")
    summary: str = ""
    description: Text = ""
    path_parameters: tuple[PathParameter, ...] = ()
    query: type[Query] | None = None
    body: type[Body] | None = None
    body_examples: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    errors: tuple[Error, ...] = ()

    def __call__(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Declare the operation at a handler's method.

        Returns:
            The method; where it has parameters that are not texts of the path, or an ``answer``, a function
            that calls it with them and answers with what it returns.

        Raises:
            TypeError: see `Signature.of`.
        """
        signature = Signature.of(method)
        own = method
        if self.answer is not None or not signature.is_plain:
            own = answering(method, signature, answer=self.answer, status=self.status)
        own.__dict__["operation"] = self._completed(method, signature)
        return own

    def _completed(self, method: Callable[..., Any], signature: Signature) -> Operation:
        parts = words(signature.name)
        documented = (getdoc(method) or "").partition("\n")[0].rstrip(".")
        given = (Answer(self.status, "The answer.", self.answer),)
        return replace(
            self,
            name=self.name or "_".join([parts[-1], *parts[:-1]]),
            tag=self.tag if self.tag.name else Tag(method.__module__.rpartition(".")[2], ""),
            summary=self.summary or documented or " ".join([parts[-1], *parts[:-1]]),
            path_parameters=self.path_parameters or _path_parameters(signature),
            query=self.query or (signature.query and signature.query[1]),
            body=self.body or (signature.body and signature.body[1]),
            answers=self.answers or given,
        )


def _path_parameters(signature: Signature) -> tuple[PathParameter, ...]:
    found = []
    for name, adapter in signature.path.items():
        schema = adapter.json_schema()
        examples = schema.pop("examples", None) or [_EXAMPLES.get(schema.get("type", ""), "a")]
        found.append(PathParameter(name, schema.pop("description", ""), schema, examples[0]))
    return tuple(found)


operation = Operation  # by the name that a decorator has
