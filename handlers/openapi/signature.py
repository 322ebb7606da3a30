"""What a handler's method says of itself: the body, the query and the path's arguments that it takes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tornado.web import HTTPError

from handlers.json_api.body import Body, read_body
from handlers.json_api.problem import ProblemHandler
from handlers.json_api.query import Query, read_query


@dataclass(frozen=True)
class Signature:
    """A method's parameters, by their annotations. Lives as long as the method.

    Args:
        name: the method's, and its handler's.
        body: the parameter that is a `Body`, with its model.
        query: the one that is a `Query`.
        path: the others, in their order, each with what reads it; they stand for the groups of the route.
    """

    name: str
    body: tuple[str, type[Body]] | None
    query: tuple[str, type[Query]] | None
    path: dict[str, TypeAdapter[Any]]

    @classmethod
    def of(cls, method: Callable[..., Any]) -> Signature:
        """Read it.

        Raises:
            TypeError: an annotation has no value where the module stands, or there are two bodies.
        """
        name = method.__qualname__
        try:
            parameters = [
                (each.name, _value_of(each.annotation, method))
                for each in list(inspect.signature(method).parameters.values())[1:]
            ]
        except NameError as error:
            raise TypeError(f"{name}: its parameters name {error.name!r}, which its module has not") from None
        found: dict[type, list[tuple[str, Any]]] = {Body: [], Query: [], object: []}
        for parameter, given in parameters:
            kind = next(
                (kind for kind in (Body, Query) if inspect.isclass(given) and issubclass(given, kind)), object
            )
            found[kind].append((parameter, given))
        if len(found[Body]) > 1 or len(found[Query]) > 1:
            raise TypeError(
                f"{name}: it has two parameters for the body, or for the query; a request has one"
            )
        body, query = (found[kind][0] if found[kind] else None for kind in (Body, Query))
        return cls(name, body, query, {one: TypeAdapter(given) for one, given in found[object]})

    @property
    def is_plain(self) -> bool:
        """Whether Tornado itself can call the method: with texts of the path alone."""
        texts = all(adapter.core_schema == {"type": "str"} for adapter in self.path.values())
        return texts and self.body is None and self.query is None

    async def arguments(self, handler: ProblemHandler, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The method's arguments by name, for a request.

        Raises:
            HTTPError: 404, a part of the path is not of its type.
            Problem: see `read_body` and `read_query`.
        """
        given = dict(zip(self.path, args, strict=False)) | named
        try:
            found = {name: self.path[name].validate_strings(text) for name, text in given.items()}
        except ValidationError:
            raise HTTPError(404) from None
        if self.query is not None:
            found[self.query[0]] = read_query(handler, self.query[1])
        if self.body is not None:
            found[self.body[0]] = await read_body(handler, self.body[1])
        return found


def _value_of(annotation: Any, method: Callable[..., Any]) -> Any:
    """What a parameter is annotated with.

    Not by `inspect`'s ``eval_str``: that evaluates what the method returns as well, whose type may be
    imported for type checkers alone.
    """
    if annotation is inspect.Parameter.empty:
        return str
    return eval(annotation, method.__globals__) if isinstance(annotation, str) else annotation


def answering(
    method: Callable[..., Any], signature: Signature, *, answer: Any, status: int
) -> Callable[..., Awaitable[None]]:
    """The method, with its arguments read from the request, and what it returns as its answer.

    Args:
        answer: the type of the body; an object is read by its attributes. None: the method answers itself.
    """
    adapter = None if answer is None else TypeAdapter(answer)

    async def called(handler: ProblemHandler, args: tuple[str, ...], named: dict[str, str]) -> None:
        returned = method(handler, **await signature.arguments(handler, args, named))
        if inspect.isawaitable(returned):
            returned = await returned
        if adapter is None:
            return
        try:
            body = adapter.validate_python(returned, from_attributes=True)
        except ValidationError as error:
            places = [
                ".".join(map(str, each["loc"])) or "itself" for each in error.errors(include_input=False)
            ]
            raise TypeError(
                f"{signature.name} returned what its answer does not take: {', '.join(places)}"
            ) from None
        handler.write_json(body, status)

    # Plain, so that a call of it checks nothing yet: see `IdempotentHandler`.
    @functools.wraps(method)
    def answered(handler: ProblemHandler, *args: str, **named: str) -> Awaitable[None]:
        return called(handler, args, named)

    return answered


def words(name: str) -> list[str]:
    """A name in parts: of ``HeroesHandler.post``, heroes and post."""
    owner, _, method = name.removesuffix(".").rpartition(".")
    owner = owner.rpartition(".")[2].removesuffix("Handler")
    return [part.lower() for part in (*re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", owner), method)]
