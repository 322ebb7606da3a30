"""The document at ``/openapi.json``: it is right, and it is of this service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from conf import Settings
from db import Database
from handlers import Problem
from handlers.board import export, tasks, teams
from handlers.board.operations import OPERATIONS
from handlers.json_api import body as bodies, query as queries
from handlers.openapi.document import describe
from handlers.openapi.operation import Operation
from server.app import make_app
from server.monitoring.ops import Ops
from tests.fixtures.board.contract import DOCUMENT, faults_in, resolved, validator
from tests.fixtures.server import Client

PLACEHOLDERS = {"([0-9a-f]{32})": "{task_id}", "([1-9][0-9]{0,17})": "{team_id}"}


def served_by(application: Application) -> dict[str, set[str]]:
    """The methods of every path of an application, as the document writes it."""
    return {path: methods_of(handler) for path, handler in _routes_of(application)}


def _routes_of(application: Application) -> Iterator[tuple[str, type[RequestHandler]]]:
    for rule in application.wildcard_router.rules:
        assert isinstance(rule, URLSpec)
        path = rule.regex.pattern.removesuffix("$")
        for group, name in PLACEHOLDERS.items():
            path = path.replace(group, name)
        yield path, rule.handler_class


def methods_of(handler: type[RequestHandler]) -> set[str]:
    """What a handler answers otherwise than by 405."""
    methods = {
        method.lower()
        for method in handler.SUPPORTED_METHODS
        if getattr(handler, method.lower()) is not RequestHandler.get  # Tornado's one placeholder
    }
    return methods if "get" in methods else methods - {"head"}


def described_methods(path: str) -> set[str]:
    """The methods that the document has for a path."""
    return {method for method in DOCUMENT["paths"][path] if method != "parameters"}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestItIsOfThisService:
    @pytest.fixture
    def app(self, settings: Settings, database: Database) -> Application:
        """Without what is there for comparison only, which is the board once more under other paths."""
        compare = settings.compare.model_copy(update={"mount": False})
        settings = settings.model_copy(update={"compare": compare})
        return make_app(settings, database, Ops(settings))

    def test_every_route_and_method_is_in_it_and_nothing_else(self, app: Application):
        assert served_by(app) == {path: described_methods(path) for path in DOCUMENT["paths"]}

    @pytest.mark.gen_test
    async def test_each_call_checks_its_body_and_query_with_the_model_it_is_described_by(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ):
        seen: dict[str, Any] = {}

        def note(kind: str, model: Any) -> None:
            seen[kind] = model
            raise Problem(400, "seen enough")

        async def read_body(handler: object, model: Any) -> None:
            note("body", model)

        for module in (tasks, teams):
            monkeypatch.setattr(module, "read_body", read_body)
        for module in (tasks, export):
            monkeypatch.setattr(module, "read_query", lambda handler, model: note("query", model))

        for operation in OPERATIONS:
            seen.clear()
            path = operation.path.format(task_id="0" * 32, team_id=1)
            await client.request(operation.method.upper(), path, {} if operation.body else None)

            assert seen.get("body") == operation.body, operation.name
            assert seen.get("query") == operation.query, operation.name

    @pytest.mark.gen_test
    async def test_it_is_served_with_an_entity_tag(self, client: Client):
        answer = await client.get("/openapi.json")

        assert answer.json() == DOCUMENT
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "private, no-cache"
        again = await client.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.code, again.body) == (304, b"")
        head = await client.head("/openapi.json")
        assert head.headers["Content-Length"] == str(len(answer.body))


class TestItIsRight:
    def test_a_route_that_is_not_described_would_be_noticed(self):
        """The comparison itself is worth something."""
        application = Application([URLSpec("/forgotten/([0-9a-f]{32})", tasks.TaskHandler)])

        assert served_by(application) == {
            "/forgotten/{task_id}": {"get", "head", "patch", "delete", "options"}
        }

    def test_it_is_openapi_3_1(self):
        assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
        assert DOCUMENT["openapi"].startswith("3.1.")

    def test_every_component_is_referred_to(self):
        text = json.dumps(DOCUMENT)
        unused = [
            f"{kind}/{name}"
            for kind, named in DOCUMENT["components"].items()
            for name in named
            if f'"#/components/{kind}/{name}"' not in text
        ]

        assert unused == []

    def test_operation_ids_are_names_that_no_other_has(self):
        names = [
            operation["operationId"]
            for item in DOCUMENT["paths"].values()
            for method, operation in item.items()
            if method != "parameters"
        ]

        assert len(names) == len(set(names))
        assert [name for name in names if not re.fullmatch("[a-z]+(_[a-z]+)*", name)] == []

    def test_every_example_fits_its_schema(self):
        checked = 0
        for where, schema, example in examples_in(DOCUMENT):
            faults = [error.message for error in validator(schema).iter_errors(example)]
            assert faults == [], where
            checked += 1

        assert checked > 150

    def test_every_answer_has_an_example_and_every_parameter_and_header_says_what_it_is(self):
        for path, item in DOCUMENT["paths"].items():
            for method, operation in item.items():
                if method == "parameters":
                    continue
                for parameter in map(resolved, operation["parameters"]):
                    assert parameter["description"].endswith("."), (path, method, parameter["name"])
                for status, answer in operation["responses"].items():
                    answer = resolved(answer)
                    assert answer["description"], (path, method, status)
                    assert "X-Request-Id" in answer["headers"], (path, method, status)
                    for content in answer.get("content", {}).values():
                        assert content["examples"], (path, method, status)

    def test_every_example_of_a_body_is_taken(self):
        for operation in OPERATIONS:
            for name, value in operation.body_examples.items():
                assert operation.body is not None
                assert bodies.check(operation.body, value).given().keys() == value.keys(), name

    def test_every_reference_leads_somewhere(self):
        text = json.dumps(DOCUMENT)

        for reference in set(re.findall(r'"#/components/[^"]+"', text)):
            assert resolved({"$ref": json.loads(reference)})

    def test_a_query_argument_that_may_be_left_out_is_not_said_to_be_null(self):
        for operation in OPERATIONS:
            for parameter in parameters_of(operation):
                assert "null" not in json.dumps(parameter), operation.name
                assert parameter["schema"]["type"] in ("string", "integer")

    @pytest.mark.parametrize(
        ("status", "headers", "body"),
        [
            (418, {"Content-Type": "application/json"}, b"{}"),
            (200, {"Content-Type": "text/html"}, b"{}"),
            (200, {"Content-Type": "application/json"}, b'{"items": []}'),
            (200, {"Content-Type": "application/json"}, b'{"items": [], "next_cursor": null, "more": 1}'),
            (400, {"Content-Type": "application/problem+json"}, b'{"status": 400}'),
        ],
    )
    def test_an_answer_that_is_not_as_described_is_noticed(
        self, status: int, headers: dict[str, str], body: bytes
    ):
        own = {"X-Request-Id": "a", "ETag": '"a"', "Server-Timing": "db;dur=0.1, commit;dur=0.0"}

        assert faults_in("GET", "/tasks?limit=1", status, own | headers, body)
        assert not faults_in(
            "GET",
            "/tasks",
            200,
            own | {"Content-Type": "application/json"},
            b'{"items": [], "next_cursor": null}',
        )


def parameters_of(operation: Operation) -> list[dict[str, Any]]:
    """The parameters of a call's query."""
    described = describe([operation])["paths"][operation.path][operation.method]["parameters"]
    return [parameter for parameter in described if parameter.get("in") == "query"]


def examples_in(value: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example of the document, with its schema and its place."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from examples_in(item, f"{where}/{at}")
    if not isinstance(value, dict):
        return
    if "schema" in value:
        if "example" in value:
            yield where, value["schema"], value["example"]
        for name, example in value.get("examples", {}).items():
            yield f"{where}/examples/{name}", value["schema"], example["value"]
    for name, item in value.items():
        if name not in ("schema", "example", "examples"):
            yield from examples_in(item, f"{where}/{name}")


def test_queries_are_described_by_their_models():
    """What a model takes stands in the document, by name."""
    described = {parameter["name"] for parameter in parameters_of(OPERATIONS[0])}

    assert described == set(queries.TaskQuery.model_fields)
