"""The document at ``/openapi.json``: it is right, and it is of this service."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from conf import DatabaseSettings, Settings
from db import Database
from handlers import ApiHandler, Problem, ProblemHandler
from handlers.board import export, tasks
from handlers.board.queries import TaskQuery
from handlers.json_api import body as bodies
from handlers.openapi import signature
from handlers.openapi.document import About
from handlers.openapi.operation import Answer, PathParameter, Tag, operation
from handlers.openapi.routed import RoutedOperation
from server.app import make_app
from server.edge.http import DrainingServer
from server.monitoring.ops import Ops
from server.pages.handlers import PageHandler
from tests.fixtures.board.contract import DOCUMENT, OPERATIONS, faults_in, resolved, validator
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client, Serve
from tests.fixtures.slots import all_slots

PLACEHOLDERS = {"([0-9a-f]{32})": "{task_id}", "([1-9][0-9]{0,17})": "{team_id}"}


def served_by(application: Application) -> dict[str, set[str]]:
    """The methods of every path of an application, as the document writes it.

    Pages for people are no operations of the API: docs/pages.md has them.
    """
    return {
        path: methods_of(handler)
        for path, handler in _routes_of(application)
        if not issubclass(handler, PageHandler)
    }


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

        monkeypatch.setattr(signature, "read_body", read_body)
        for module in (signature, export):
            monkeypatch.setattr(module, "read_query", lambda handler, model: note("query", model))

        for routed in OPERATIONS:
            seen.clear()
            described = routed.operation
            await client.request(routed.method.upper(), routed.example_path, {} if described.body else None)

            assert seen.get("body") == described.body, described.name
            assert seen.get("query") == described.query, described.name

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
            for method, described in item.items():
                if method == "parameters":
                    continue
                for parameter in map(resolved, described["parameters"]):
                    assert parameter["description"].endswith("."), (path, method, parameter["name"])
                for status, answer in described["responses"].items():
                    answer = resolved(answer)
                    assert answer["description"], (path, method, status)
                    assert "X-Request-Id" in answer["headers"], (path, method, status)
                    for content in answer.get("content", {}).values():
                        assert content["examples"], (path, method, status)

    def test_every_example_of_a_body_is_taken(self):
        for routed in OPERATIONS:
            for name, value in routed.operation.body_examples.items():
                assert routed.operation.body is not None
                assert bodies.check(routed.operation.body, value).given().keys() == value.keys(), name

    def test_every_reference_leads_somewhere(self):
        text = json.dumps(DOCUMENT)

        for reference in set(re.findall(r'"#/components/[^"]+"', text)):
            assert resolved({"$ref": json.loads(reference)})

    def test_a_query_argument_that_may_be_left_out_is_not_said_to_be_null(self):
        for routed in OPERATIONS:
            for parameter in parameters_of(routed):
                assert "null" not in json.dumps(parameter), routed.path
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


def parameters_of(routed: RoutedOperation) -> list[dict[str, Any]]:
    """The parameters of an operation's query."""
    described = DOCUMENT["paths"][routed.path][routed.method]["parameters"]
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

    assert described == set(TaskQuery.model_fields)


def details_in(document: dict[str, Any], path: str, method: str, status: int) -> list[str]:
    """The details of the problems that a document has for a status of an operation."""
    answer = document["paths"][path][method]["responses"][str(status)]
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    examples = answer["content"]["application/problem+json"]["examples"]
    return [example["value"]["detail"] for example in examples.values()]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestItsNumbersAreThoseInForce:
    """Each limit that a client may meet stands in the document as the answer tells it."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        limits = {
            "body_max_bytes": 256 * 1024,
            "header_max_bytes": 4096,
            "header_timeout_s": 0.2,
            "exports_max": 1,
        }
        return settings.model_copy(update={"http": settings.http.model_copy(update=limits)})

    @pytest.fixture
    def database_settings(self, database_settings: DatabaseSettings) -> DatabaseSettings:
        return database_settings.model_copy(update={"pool_timeout_s": 0.1, "reader_pool_size": 3})

    @pytest.mark.gen_test
    @pytest.mark.parametrize(("path", "method"), [("/tasks", "post"), ("/tasks/bulk", "post")])
    async def test_the_largest_body(self, client: Client, path: str, method: str):
        document = (await client.get("/openapi.json")).json()

        refused = await client.request(method.upper(), path, {"bundle": "x" * 300_000})

        assert refused.json()["detail"] in details_in(document, path, method, refused.code)
        assert "of at most 256 KiB, " in document["info"]["description"]
        assert "at most 256 KiB (`http" in document["paths"]["/tasks/bulk"]["post"]["description"]

    @pytest.mark.gen_test
    async def test_the_longest_head(self, client: Client):
        document = (await client.get("/openapi.json")).json()

        refused = await client.get("/teams", headers={"X-Long": "x" * 5000})

        assert refused.code == 431
        assert details_in(document, "/teams", "get", 431) == [refused.json()["detail"]]

    @pytest.mark.gen_test
    async def test_the_longest_wait_for_a_head(self, client: Client):
        document = (await client.get("/openapi.json")).json()

        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /teams HTTP/1.1\r\n")
        head, body = (await reader.read()).split(b"\r\n\r\n")
        writer.close()

        assert head.startswith(b"HTTP/1.1 408 ")
        assert details_in(document, "/teams", "get", 408) == [json.loads(body)["detail"]]

    @pytest.mark.gen_test
    @pytest.mark.parametrize(("method", "role"), [("get", "reader"), ("post", "writer")])
    async def test_the_longest_wait_for_a_slot(
        self, client: Client, database: Database, expect_log: ExpectLog, method: str, role: str
    ):
        document = (await client.get("/openapi.json")).json()
        limiter = getattr(database, role).limiter

        with (
            all_slots(limiter),
            expect_log("tornado.access", "503 "),
            expect_log("onfinish", "none came free in 0.1 s"),
        ):
            refused = await client.request(
                method.upper(), "/teams", {"name": "QA"} if method == "post" else None
            )

        assert refused.code == 503
        assert refused.json()["detail"] in details_in(document, "/teams", method, 503)

    @pytest.mark.gen_test
    async def test_the_most_exports(self, client: Client, app: Application, expect_log: ExpectLog):
        document = (await client.get("/openapi.json")).json()

        with (
            all_slots(app.settings["exports"]),
            expect_log("tornado.access", "503 "),
            expect_log("onfinish", "exports are running"),
        ):
            refused = await client.get("/tasks/export")

        assert refused.code == 503
        assert refused.json()["detail"] in details_in(document, "/tasks/export", "get", 503)
        assert "At most 1 may run" in document["paths"]["/tasks/export"]["get"]["description"]


NOTES = Tag("notes", "What is written down.")
NOTE_ID = PathParameter("note_id", "The note's number.", {"type": "integer"}, 7)


class NoteHandler(ApiHandler):
    """A resource of another application's."""

    @operation(
        name="get_note",
        tag=NOTES,
        summary="A note",
        path_parameters=(NOTE_ID,),
        answers=(Answer(200, "The note.", dict[str, str], {"text": "milk"}),),
    )
    async def get(self, note_id: str) -> None:
        self.write_json({"text": note_id})


class UndescribedHandler(ProblemHandler):
    """Its operation does not describe the argument that the route has."""

    @operation(name="get_thing", tag=NOTES, summary="A thing", answers=(Answer(204, "It is there."),))
    def get(self, thing_id: str) -> None:
        self.set_status(204)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestAnotherApplicationsRoutes:
    @pytest.mark.gen_test
    async def test_an_application_is_handed_its_routes_and_its_document_has_them_alone(
        self, settings: Settings, database: Database, serve: Serve
    ):
        """With the kernel's own resources, and nothing of the board."""
        routes = [URLSpec("/notes/([0-9]+)", NoteHandler)]
        about = About(title="Notes", description="Notes of a kitchen.")
        app = make_app(settings, database, routes=routes, about=about)
        client = serve(app, DrainingServer, settings=settings.http)

        document = (await client.get("/openapi.json")).json()

        assert (await client.get("/notes/7")).json() == {"text": "7"}
        assert (await client.get("/tasks")).code == 404
        kernel = {"/openapi.json", "/livez", "/readyz", "/metrics", "/stats"}
        assert set(document["paths"]) == kernel | {"/notes/{note_id}"}
        assert document["info"]["title"] == "Notes"
        assert document["info"]["description"].startswith("Notes of a kitchen.\n\nWhat a request writes")
        assert [tag["name"] for tag in document["tags"]] == ["notes", "operation"]
        assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
        assert re.findall("(?i)task|team|board", json.dumps(document)) == []

    def test_an_argument_of_a_path_that_is_not_described_stops_the_start(
        self, settings: Settings, database: Database
    ):
        """The message names the handler, the argument and the way out."""
        with pytest.raises(TypeError, match=r"UndescribedHandler\.get .*'number'.*PathParameter"):
            make_app(settings, database, routes=[URLSpec("/things/(?P<number>[0-9]+)", UndescribedHandler)])
