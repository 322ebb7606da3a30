"""What `operation` reads from a method's signature, hands to it, and answers with."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from tornado.routing import URLSpec

from handlers import ApiHandler, Body, IdempotentHandler, Query, operation
from handlers.json_api.query import Number
from handlers.openapi.operation import Operation
from handlers.openapi.routed import operations_in
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import add_note

pytestmark = [pytest.mark.gen_test, pytest.mark.parametrize("backend", ["sqlite"], indirect=True)]

SECRET = "a value that no log may have"


class NoteNew(Body):
    """A body."""

    text: str = Field(max_length=40)


class Choice(Query):
    """A query."""

    limit: Annotated[int, Number, Field(ge=1)] = 10


class Shown(BaseModel):
    """An answer."""

    text: str
    size: int


class Stored:
    """What a model function returns: an object, not a dict. Lives as long as one request."""

    def __init__(self, text: str, size: Any) -> None:
        self.text, self.size = text, size


def store(session: Session, *, text: str) -> Stored:
    add_note(session, text=text)
    return Stored(text, len(text))


class Notebook(IdempotentHandler, ApiHandler):
    """Takes a body, a query, both, or a part of the path."""

    @operation(answer=Shown, status=201)
    async def post(self, new: NoteNew) -> Stored:
        """Add a note. And say nothing else."""
        return await self.run(store, self.session, text=new.text)

    @operation(answer=list[Shown])
    async def get(self, choice: Choice) -> list[Stored]:
        return [Stored("a", choice.limit)]

    @operation(answer=Shown)
    def put(self, new: NoteNew, choice: Choice) -> dict[str, Any]:
        return {"text": new.text, "size": choice.limit}


async def test_a_body_is_handed_over_and_what_is_returned_is_the_answer(mount: Mount, notes: Notes):
    answer = await mount(Notebook).post("/", {"text": "milk"})

    assert (answer.code, answer.json()) == (201, {"text": "milk", "size": 4})
    assert notes() == ["milk"]


async def test_a_body_that_is_wrong_does_not_reach_the_method(mount: Mount, notes: Notes):
    answer = await mount(Notebook).post("/", {"text": 7})

    assert (answer.code, answer.json()["errors"][0]["pointer"]) == (422, "/text")
    assert notes() == []


async def test_a_query_is_handed_over_checked(mount: Mount, notes: Notes):
    client = mount(Notebook)

    assert (await client.get("/?limit=3")).json() == [{"text": "a", "size": 3}]
    assert (await client.get("/")).json() == [{"text": "a", "size": 10}]
    assert (await client.get("/?limit=0")).code == 400
    assert (await client.head("/?limit=3")).headers["Content-Length"] == str(len('[{"text":"a","size":3}]'))


async def test_a_plain_method_takes_both(mount: Mount, notes: Notes):
    answer = await mount(Notebook).request("PUT", "/?limit=3", {"text": "milk"})

    assert answer.json() == {"text": "milk", "size": 3}


async def test_a_request_that_is_repeated_under_its_key_is_replayed(mount: Mount, notes: Notes, sql: Any):
    client = mount(Notebook)
    key = {"Idempotency-Key": "k"}

    first = await client.post("/", {"text": "milk"}, headers=key)
    second = await client.post("/", {"text": "milk"}, headers=key)

    assert (first.code, second.code) == (201, 201)
    assert first.json() == second.json()
    assert notes() == ["milk"]


class Parts(ApiHandler):
    """Parts of the path, of types of their own."""

    @operation(answer=list[str])
    async def get(self, number: Annotated[int, Field(le=2**31)], key: UUID, rest: str) -> list[str]:
        return [type(part).__name__ for part in (number, key, rest)]


@pytest.mark.parametrize(
    "path", ["/([0-9]+)/([^/]+)/(.*)", "/(?P<number>[0-9]+)/(?P<key>[^/]+)/(?P<rest>.*)"]
)
async def test_parts_of_the_path_have_the_types_of_the_parameters(mount: Mount, path: str):
    client = mount(Parts, path)
    key = "6b0b3d1e-3f7a-4b56-9d5e-0d7b1f1a2c3d"

    assert (await client.get(f"/7/{key}/x")).json() == ["int", "UUID", "str"]
    assert (await client.get(f"/{2**40}/{key}/x")).code == 404
    assert (await client.get("/7/no-key/x")).code == 404


class Wrong(ApiHandler):
    """Returns what its answer does not take."""

    @operation(answer=Shown)
    async def get(self) -> Stored:
        return Stored("a", SECRET)


async def test_an_answer_of_another_type_is_a_500_and_the_log_has_its_place_alone(
    mount: Mount, expect_log: ExpectLog
):
    client = mount(Wrong)
    with (
        expect_log("onfinish.handlers", "returned what its answer does not take: size") as records,
        expect_log("tornado.access", "^500"),
    ):
        answer = await client.get("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert all(SECRET not in record.getMessage() + str(record.exc_text) for record in records)


class Silent(ApiHandler):
    """Answers by itself."""

    @operation(status=204)
    async def delete(self, number: int) -> None:
        self.set_status(204)


async def test_a_method_without_an_answer_answers_by_itself(mount: Mount):
    client = mount(Silent, "/([0-9]+)")

    answer = await client.request("DELETE", "/7")

    assert (answer.code, answer.body) == (204, b"")


def test_what_the_signature_says_is_described(backend: str):
    routes = [URLSpec("/notes", Notebook), URLSpec("/([0-9]+)/([^/]+)/(.*)", Parts)]
    found = {each.operation.name: each.operation for each in operations_in(routes)}

    assert list(found) == ["get_notebook", "post_notebook", "put_notebook", "get_parts"]
    post, parts = found["post_notebook"], found["get_parts"]
    assert (post.summary, post.tag.name, post.body) == (
        "Add a note. And say nothing else",
        "test_operation",
        NoteNew,
    )
    assert [(answer.status, answer.model) for answer in post.answers] == [(201, Shown)]
    assert found["get_notebook"].query is Choice
    assert [(each.name, each.schema["type"]) for each in parts.path_parameters] == [
        ("number", "integer"),
        ("key", "string"),
        ("rest", "string"),
    ]


def test_a_method_that_tornado_can_call_stays_as_it_is(backend: str):
    async def get(self: ApiHandler, name: str) -> None: ...

    assert operation(name="get_it")(get) is get
    assert isinstance(get.__dict__["operation"], Operation)


def test_two_bodies_are_refused_where_the_class_is_made(backend: str):
    async def post(self: ApiHandler, one: NoteNew, other: NoteNew) -> None: ...

    with pytest.raises(TypeError, match="two parameters for the body"):
        operation()(post)


def test_what_a_method_returns_may_have_a_type_for_type_checkers_alone(backend: str):
    async def post(self: ApiHandler, new: NoteNew) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821

    assert operation(answer=Shown)(post).__dict__["operation"].body is NoteNew


def test_an_annotation_that_names_nothing_is_named(backend: str):
    async def post(self: ApiHandler, new: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="its parameters name 'Missing'"):
        operation()(post)
