"""The document that describes every call, made from the models that check bodies and queries.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from db.errors import OutcomeUnknown
from handlers.board import examples, responses as answers
from handlers.board.operations import OPERATIONS
from handlers.board.parameters import HEADERS_OF_ALL, PARAMETERS, RESPONSE_HEADERS
from handlers.json_api.errors import Problem, ProblemBody, body_of, problem_of, status_of, title_of
from handlers.json_api.problem import ProblemHandler
from handlers.json_api.security_headers import REVALIDATED
from handlers.openapi.operation import BODY, EDGE, SESSION, WRITE, Answer, Operation

Json = dict[str, Any]

PATH = "/openapi.json"
PROBLEM = "application/problem+json"

_REF = "#/components/schemas/{model}"
_LINKED = {answers.Task: "task_id", answers.Team: "team_id"}
"""What is made, and the parameter under which other calls know it."""

_SHARED = {
    error: title_of(status_of(error)).replace(" ", "")
    for error in (*EDGE, *BODY, *WRITE, *SESSION)
    if status_of(error) not in (400, 503)  # which mean several things
}
"""Errors that are the same everywhere, by the name under which the document has them once."""

_ABOUT = """\
A board of bulk QA tasks that belong to teams and move between them.

What a request writes is one transaction, and no success is answered before COMMIT has succeeded. Every
error is `application/problem+json` (RFC 9457); its `outcome` says what has become of the request's work:
nothing of it was kept (`not_applied`), all of it was (`applied`), or nobody knows (`unknown`).

Every answer carries `X-Request-Id`: the caller's own where it is 1 to 64 characters of `[A-Za-z0-9._-]`,
else a new one. HEAD is answered wherever GET is. A path that is not here, or an id that could be none, is
404; a method that a path does not have is 405, with `Allow`.

Bodies are JSON in UTF-8, of at most 1 MiB, 150,000 values and 100 fields where a call does not say otherwise.
Integers are written without a fraction, 3 and not 3.0, and no name stands twice in one object.
"""


class OpenApiHandler(ProblemHandler):
    """``/openapi.json``. Lives as long as one request; the document is made once in a process."""

    def get(self) -> None:
        body, etag = document()
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", REVALIDATED)
        self.set_header("ETag", etag)
        if self.check_etag_header():
            self.set_status(304)
        else:
            self.finish(body)


@cache
def document() -> tuple[bytes, str]:
    """The document as it is sent, and its entity tag."""
    body = json.dumps(describe(OPERATIONS), ensure_ascii=False, separators=(",", ":")).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def describe(operations: Sequence[Operation]) -> Json:
    """Describe calls, as OpenAPI 3.1 has it."""
    schemas, definitions = _schemas(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, _path(operation))[operation.method] = _operation(
            operation, schemas, operations
        )
    for path, item in paths.items():
        if "get" in item:
            item["head"] = _head(item["get"])
        item["options"] = _options(path, item, schemas)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "onfinish",
            "summary": "A board of QA tasks; every request is one transaction.",
            "description": _ABOUT,
            "version": _version(),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "tasks", "description": "What there is to check."},
            {"name": "transfers", "description": "Tasks that move between teams, and the log of it."},
            {"name": "teams", "description": "Who tasks belong to."},
            {"name": "operation", "description": "For whoever runs the service."},
        ],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "parameters": PARAMETERS,
            "headers": RESPONSE_HEADERS,
            "responses": {
                name: _problem(status_of(error), [error], "/tasks", schemas)
                for error, name in _SHARED.items()
            },
        },
    }


class _Schemas(GenerateJsonSchema):
    """Schemas without a title for each field, which would but repeat its name. Lives while it makes them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas(operations: Iterable[Operation]) -> tuple[Mapping[Any, Json], Json]:
    """The schema of each model, by model, and what these refer to."""
    models: set[Any] = {ProblemBody}
    for operation in operations:
        models |= {each.model for each in operation.answers if each.model is not None}
        models |= {operation.body} if operation.body is not None else set()
    ordered = sorted(models, key=str)
    inputs = [(model, "validation", TypeAdapter(model)) for model in ordered]
    by_model, definitions = TypeAdapter.json_schemas(
        inputs,  # type: ignore[arg-type]  # a model may be any hashable
        ref_template=_REF,
        schema_generator=_Schemas,
    )
    return {model: schema for (model, _), schema in by_model.items()}, definitions["$defs"]


def _path(operation: Operation) -> Json:
    names = [step[1:-1] for step in operation.path.split("/") if step.startswith("{")]
    return {"parameters": [_parameter(name) for name in names]} if names else {}


def _operation(operation: Operation, schemas: Mapping[Any, Json], operations: Iterable[Operation]) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    query = list(_query(operation.query)) if operation.query is not None else []
    described["parameters"] = query + [_parameter(name) for name in (*operation.headers, "X-Request-Id")]
    if operation.body is not None:
        content: Json = {"schema": schemas[operation.body]}
        content["examples"] = {
            name.replace(" ", "_"): {"summary": name, "value": value}
            for name, value in operation.body_examples.items()
        }
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    responses = {str(answer.status): _answer(answer, operation, schemas) for answer in operation.answers}
    for answer in operation.answers:
        if answer.status == 201 and answer.model in _LINKED:
            responses["201"]["links"] = _links(_LINKED[answer.model], operations)
    for status, problems in _errors(operation.path, operation.errors, schemas).items():
        if status in responses:
            responses[status]["content"] |= problems["content"]
            responses[status]["description"] += f" Or: {problems['description']}"
        else:
            responses[status] = problems
    described["responses"] = dict(sorted(responses.items()))
    return described


def _links(parameter: str, operations: Iterable[Operation]) -> Json:
    """Where one can go from what was just made."""
    return {
        other.name: {"operationId": other.name, "parameters": {parameter: "$response.body#/id"}}
        for other in operations
        if f"{{{parameter}}}" in other.path
    }


def _query(model: type[BaseModel]) -> Iterable[Json]:
    """The parameters of a query. null is how a model says "not given", which no query argument can."""
    schema = model.model_json_schema(schema_generator=_Schemas)
    for name, found in schema["properties"].items():
        field = {key: value for key, value in found.items() if key not in ("description", "anyOf")}
        for arm in found.get("anyOf", ()):
            field |= {key: value for key, value in arm.items() if arm != {"type": "null"}}
        field = {key: value for key, value in field.items() if (key, value) != ("default", None)}
        yield {"name": name, "in": "query", "description": found["description"], "schema": field}


def _answer(answer: Answer, operation: Operation, schemas: Mapping[Any, Json]) -> Json:
    described: Json = {"description": answer.description, "headers": _headers(answer.headers)}
    if operation.session and answer.status != 304 and answer.media_type == "application/json":
        described["headers"] |= _headers({"Server-Timing": True})
    if answer.model is not None:
        content = {"schema": schemas[answer.model], "examples": {"answer": {"value": answer.example}}}
        described["content"] = {answer.media_type: content}
    return described


def _errors(path: str, errors: Iterable[Exception], schemas: Mapping[Any, Json]) -> dict[str, Json]:
    """The errors of a call, by status: each with what a client would read, made by what answers it."""
    by_status: dict[int, list[Exception]] = {}
    for error in errors:
        by_status.setdefault(status_of(error), []).append(error)
    return {
        str(status): _ref("responses", _SHARED[alike[0]])
        if len(alike) == 1 and alike[0] in _SHARED
        else _problem(status, alike, path, schemas)
        for status, alike in by_status.items()
    }


def _problem(status: int, errors: Sequence[Exception], path: str, schemas: Mapping[Any, Json]) -> Json:
    instance = path.format(task_id=examples.TASK_ID, team_id=1)
    told = {}
    for at, error in enumerate(errors, 1):
        problem = problem_of(error, status)
        outcome = "unknown" if isinstance(error, OutcomeUnknown) else "not_applied"
        value = body_of(problem, instance=instance, request_id=examples.REQUEST_ID, outcome=outcome)
        told[f"problem_{at}"] = {"summary": problem.detail, "value": value}
    return {
        "description": title_of(status),
        "headers": _headers({"Retry-After": True} if status == 503 else {}),
        "content": {PROBLEM: {"schema": schemas[ProblemBody], "examples": told}},
    }


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


def _options(path: str, item: Json, schemas: Mapping[Any, Json]) -> Json:
    """OPTIONS of a path, which has the methods of ``item``."""
    name = "_".join(step.strip("{}").replace(".", "_") for step in path.split("/") if step)
    methods = {"OPTIONS", *(method.upper() for method in item if method != "parameters")}
    answer = {
        "description": "`Allow` names them; where CORS is on, a page's preflight is answered too.",
        "headers": _headers({"Allow": True}),
    }
    refused = (*EDGE, Problem(404, "Not Found")) if "{" in path else EDGE
    return {
        "operationId": f"options_{name}",
        "tags": ["operation"],
        "summary": f"The methods of this path: {', '.join(sorted(methods))}",
        "parameters": [_parameter("X-Request-Id")],
        "responses": {"204": answer, **_errors(path, refused, schemas)},
    }


def _headers(names: Mapping[str, bool]) -> Json:
    """Headers by name: those that are always there, and those that are where they have something to say."""
    return {
        name: _ref("headers", name)
        if always == RESPONSE_HEADERS[name]["required"]
        else {**RESPONSE_HEADERS[name], "required": always}
        for name, always in {**HEADERS_OF_ALL, **names}.items()
    }


def _parameter(name: str) -> Json:
    return _ref("parameters", name)


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _version() -> str:
    try:
        return metadata.version("onfinish")
    except metadata.PackageNotFoundError:
        return "0"
