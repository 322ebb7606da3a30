"""The document that describes every operation, made from the models that check bodies and queries.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any, Self

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from sqlalchemy.orm import Session

from db.errors import OutcomeUnknown
from handlers.json_api.body import NAMES_MAX, VALUES_MAX
from handlers.json_api.errors import ProblemBody, body_of
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.errors import Problem, problem_of, status_of, title_of
from handlers.lifecycle.write_tokens import LOST, READ_AFTER, WROTE
from handlers.openapi.common_errors import CommonErrors
from handlers.openapi.headers import REQUEST_HEADERS, REQUEST_ID, RESPONSE_HEADERS
from handlers.openapi.operation import OPERATION, Answer, Limits, Tag, size_of
from handlers.openapi.routed import RoutedOperation
from handlers.request_id import CHARS_MAX

Json = dict[str, Any]

PROBLEM = "application/problem+json"

_REF = "#/components/schemas/{model}"

_CONTRACT = """\
What a request writes is one transaction, and no success is answered before COMMIT has succeeded. Every
error is `application/problem+json` (RFC 9457); its `outcome` says what has become of the request's work:
nothing of it was kept (`not_applied`), all of it was (`applied`), or that is not known (`unknown`).

Every answer carries `X-Request-Id`: the caller's own where it is 1 to {chars} characters of `[A-Za-z0-9._-]`,
else a new one. HEAD is answered wherever GET is. A path that is not here, or an id that could be none, is
404; a method that a path does not have is 405, with `Allow`.

Bodies are JSON in UTF-8, of at most {body} where a call does not say otherwise.
Integers are written without a fraction, 3 and not 3.0, and no name stands twice in one object.
"""


@dataclass(frozen=True, kw_only=True)
class About:
    """The application as a whole, as the document introduces it.

    Args:
        description: Markdown; what holds for each operation because of the kernel is added.
        distribution: the package whose version is the document's.
        license: as OpenAPI has it; None leaves it out.
        first_step: called with a session of the reader; returns what to do first with an application whose
            database is still empty, for its home and the banner, or None. No part of the document.
    """

    title: str
    summary: str = ""
    description: str = ""
    distribution: str = "onfinish"
    license: Mapping[str, str] | None = None
    first_step: Callable[[Session], str | None] | None = None


class Document:
    """The document, and its form on the wire. Lives as long as its application.

    Made by the first request for it: it is a tenth of a start and three MiB, and most processes need none.

    Args:
        make: calls `describe`.
    """

    def __init__(self, make: Callable[[], Json]) -> None:
        self._make = make

    @cached_property
    def described(self) -> Json:
        """The document itself."""
        return self._make()

    @cached_property
    def body(self) -> bytes:
        """What is sent."""
        return json.dumps(self.described, ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def etag(self) -> str:
        """Its entity tag."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    async def made(self) -> Self:
        """Itself, complete. Made in a thread, since it takes some hundredths of a second."""
        if "etag" not in vars(self):
            await asyncio.to_thread(lambda: self.etag)
        return self


def describe(operations: Sequence[RoutedOperation], about: About, limits: Limits) -> Json:
    """Describe operations, as OpenAPI 3.1 has it. HEAD and OPTIONS of their paths are added."""
    return _Description(operations, limits).whole(about)


class _Schemas(GenerateJsonSchema):
    """Schemas without a title for each field, which would but repeat its name. Lives while it makes them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Description:
    """Describes some operations. Lives as long as the document is made."""

    def __init__(self, operations: Sequence[RoutedOperation], limits: Limits) -> None:
        self._operations = operations
        self._limits = limits
        self._common = CommonErrors(limits)
        self._shared = self._common.shared
        self._schemas, self._definitions = _schemas_of(operations)
        self._path_parameters = {
            each.name: {
                "name": each.name,
                "in": "path",
                "required": True,
                "description": each.description,
                "schema": each.schema,
                "example": each.example,
            }
            for routed in operations
            for each in routed.operation.path_parameters
        }
        self._headers = {**RESPONSE_HEADERS, **self._location()}
        self._used: dict[str, set[str]] = {"parameters": set(), "headers": set()}

    def whole(self, about: About) -> Json:
        """The document."""
        paths: dict[str, Json] = {}
        for routed in self._operations:
            paths.setdefault(routed.path, self._path(routed))[routed.method] = self._operation(routed)
        for path, item in paths.items():
            if "get" in item:
                item["head"] = _head(item["get"])
            item["options"] = self._options(path, item)
        example_path = self._operations[0].example_path
        responses = {
            name: self._problem(status_of(error), [error], example_path)
            for error, name in self._shared.items()
        }
        parameters = self._path_parameters | {
            name: {"name": name, "in": "header", **header} for name, header in REQUEST_HEADERS.items()
        }
        return {
            "openapi": "3.1.1",
            "info": self._info(about),
            "servers": [{"url": "/"}],
            "tags": [{"name": tag.name, "description": tag.description} for tag in self._tags()],
            "paths": paths,
            "components": {
                "schemas": self._definitions,
                "parameters": _only(parameters, self._used["parameters"]),
                "headers": _only(self._headers, self._used["headers"]),
                "responses": responses,
            },
        }

    def _info(self, about: About) -> Json:
        body_max_bytes = self._common.body_max_bytes(ProblemHandler.body_max_bytes)
        contract = _CONTRACT.format(
            chars=CHARS_MAX,
            body=f"{size_of(body_max_bytes)}, {VALUES_MAX:,} values and {NAMES_MAX} fields",
        )
        info: Json = {
            "title": about.title,
            "summary": about.summary,
            "description": f"{about.description}\n\n{contract}".lstrip(),
            "version": _version_of(about.distribution),
            "license": about.license,
        }
        return {name: value for name, value in info.items() if value}

    def _tags(self) -> Iterable[Tag]:
        """In the order in which the operations name them; that of the OPTIONS is there in any case."""
        return dict.fromkeys((*(each.operation.tag for each in self._operations), OPERATION))

    def _location(self) -> Json:
        """The header ``Location``: where what was made is found."""
        made = {answer.made for each in self._operations for answer in each.operation.answers} - {""}
        homes = {
            each.path: each
            for each in self._operations
            if any(each.path.endswith(f"/{{{name}}}") for name in made)
        }
        if not homes:
            return {}
        first, *_ = homes.values()
        described = {
            "required": True,
            "description": "The path of what was made.",
            "schema": {
                "type": "string",
                "pattern": f"^({'|'.join(each.pattern for each in homes.values())})$",
            },
            "example": first.example_path,
        }
        return {"Location": described}

    def _path(self, routed: RoutedOperation) -> Json:
        names = [step[1:-1] for step in routed.path.split("/") if step.startswith("{")]
        return {"parameters": [self._ref("parameters", name) for name in names]} if names else {}

    def _operation(self, routed: RoutedOperation) -> Json:
        operation = routed.operation
        described: Json = {
            "operationId": operation.name,
            "tags": [operation.tag.name],
            "summary": operation.summary,
        }
        if operation.description:
            text = operation.description
            described["description"] = text if isinstance(text, str) else text(self._limits)
        query = list(_query(operation.query)) if operation.query is not None else []
        names = routed.request_headers
        if self._limits.write_tokens and routed.has_session and routed.pool == "reader":
            names = (READ_AFTER, *names)
        headers = [self._ref("parameters", name) for name in names]
        described["parameters"] = query + headers
        if operation.body is not None:
            content: Json = {"schema": self._schemas[operation.body]}
            if operation.body_examples:
                content["examples"] = {
                    name.replace(" ", "_"): {"summary": name, "value": value}
                    for name, value in operation.body_examples.items()
                }
            described["requestBody"] = {"required": True, "content": {"application/json": content}}
        responses = {str(answer.status): self._answer(answer, routed) for answer in operation.answers}
        for status, problems in self._errors(routed.example_path, self._common.of(routed)).items():
            if status in responses:
                responses[status]["content"] |= problems["content"]
                responses[status]["description"] += f" Or: {problems['description']}"
            else:
                responses[status] = problems
        described["responses"] = dict(sorted(responses.items()))
        return described

    def _answer(self, answer: Answer, routed: RoutedOperation) -> Json:
        names = dict(routed.response_headers(answer))
        if self._limits.write_tokens and routed.has_session:
            names[WROTE if routed.pool == "writer" else LOST] = False
        described: Json = {"description": answer.description, "headers": self._headers_of(names)}
        if answer.model is not None:
            content = {"schema": self._schemas[answer.model]}
            if answer.example is not None:
                content["examples"] = {"answer": {"value": answer.example}}
            described["content"] = {answer.media_type: content}
        if answer.made:
            described["links"] = {
                other.operation.name: {
                    "operationId": other.operation.name,
                    "parameters": {answer.made: "$response.body#/id"},
                }
                for other in self._operations
                if f"{{{answer.made}}}" in other.path
            }
        return described

    def _errors(self, path: str, errors: Iterable[Exception]) -> dict[str, Json]:
        """Errors by status: each with what a client would read, made by what answers it."""
        by_status: dict[int, list[Exception]] = {}
        for error in errors:
            by_status.setdefault(status_of(error), []).append(error)
        return {
            str(status): {"$ref": f"#/components/responses/{self._shared[alike[0]]}"}
            if len(alike) == 1 and alike[0] in self._shared
            else self._problem(status, alike, path)
            for status, alike in by_status.items()
        }

    def _problem(self, status: int, errors: Sequence[Exception], path: str) -> Json:
        examples = {}
        for at, error in enumerate(errors, 1):
            problem = problem_of(error, status)
            outcome = "unknown" if isinstance(error, OutcomeUnknown) else "not_applied"
            value = body_of(problem, instance=path, request_id=REQUEST_ID, outcome=outcome)
            examples[f"problem_{at}"] = {"summary": problem.detail, "value": value}
        headers = dict.fromkeys(("X-Request-Id", *(("Retry-After",) if status == 503 else ())), True)
        return {
            "description": title_of(status),
            "headers": self._headers_of(headers),
            "content": {PROBLEM: {"schema": self._schemas[ProblemBody], "examples": examples}},
        }

    def _options(self, path: str, item: Json) -> Json:
        """OPTIONS of a path, which has the methods of ``item``."""
        name = "_".join(step.strip("{}").replace(".", "_") for step in path.split("/") if step)
        methods = {"OPTIONS", *(method.upper() for method in item if method != "parameters")}
        answer = {
            "description": "`Allow` names them; where CORS is on, a page's preflight is answered too.",
            "headers": self._headers_of({"X-Request-Id": True, "Allow": True}),
        }
        errors = self._common.edge
        if "{" in path:
            errors = (*errors, Problem(404, "Not Found"))
        example_path = next(each.example_path for each in self._operations if each.path == path)
        return {
            "operationId": f"options_{name}",
            "tags": [OPERATION.name],
            "summary": f"The methods of this path: {', '.join(sorted(methods))}",
            "parameters": [self._ref("parameters", "X-Request-Id")],
            "responses": {"204": answer, **self._errors(example_path, errors)},
        }

    def _headers_of(self, names: Mapping[str, bool]) -> Json:
        """Headers by name, each with whether it is always there."""
        return {
            name: self._ref("headers", name)
            if always == self._headers[name]["required"]
            else {**self._headers[name], "required": always}
            for name, always in names.items()
        }

    def _ref(self, kind: str, name: str) -> Json:
        self._used[kind].add(name)
        return {"$ref": f"#/components/{kind}/{name}"}


def _schemas_of(operations: Iterable[RoutedOperation]) -> tuple[Mapping[Any, Json], Json]:
    """The schema of each model, by model, and what these refer to."""
    models: set[Any] = {ProblemBody}
    for routed in operations:
        models |= {each.model for each in routed.operation.answers} | {routed.operation.body}
    ordered = sorted(models - {None}, key=str)
    inputs = [(model, "validation", TypeAdapter(model)) for model in ordered]
    by_model, definitions = TypeAdapter.json_schemas(
        inputs,  # type: ignore[arg-type]  # a model may be any hashable
        ref_template=_REF,
        schema_generator=_Schemas,
    )
    return {model: schema for (model, _), schema in by_model.items()}, definitions["$defs"]


def _query(model: type[BaseModel]) -> Iterable[Json]:
    """The parameters of a query. null is how a model has "not given", which no query argument can be."""
    schema = model.model_json_schema(schema_generator=_Schemas)
    for name, found in schema["properties"].items():
        field = {key: value for key, value in found.items() if key not in ("description", "anyOf")}
        for arm in found.get("anyOf", ()):
            field |= {key: value for key, value in arm.items() if arm != {"type": "null"}}
        field = {key: value for key, value in field.items() if (key, value) != ("default", None)}
        yield {"name": name, "in": "query", "description": found.get("description", ""), "schema": field}


def _head(get: Json) -> Json:
    """HEAD of what GET answers: the same, without a body."""
    responses = {
        status: {key: value for key, value in answer.items() if key not in ("content", "links")}
        for status, answer in get["responses"].items()
    }
    summary = f"As `{get['operationId']}`, without the body"
    described = {
        **get,
        "operationId": f"{get['operationId']}_head",
        "summary": summary,
        "responses": responses,
    }
    described.pop("description", None)
    return described


def _only(named: Mapping[str, Any], names: set[str]) -> Json:
    return {name: value for name, value in named.items() if name in names}


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0"
