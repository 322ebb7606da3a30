"""The two calls that the documents have side by side: here and on FastAPI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import Settings
from db import Database
from db.errors import Unavailable
from server.app import make_app
from tests.examples import hero_api, hero_fastapi
from tests.examples.hero_model import Base
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve


class Api(Protocol):
    """Sends one request and returns the status, with the body decoded."""

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]: ...


@pytest.fixture
def ours(database: Database, settings: Settings, serve: Serve, io_loop: IOLoop) -> Api:
    database.create_all(Base.metadata)
    client = serve(make_app(settings, database, routes=hero_api.ROUTES))

    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = io_loop.run_sync(lambda: client.request(method, path, body))
        return answer.code, answer.json()

    return call


@pytest.fixture
def fastapi(database_url: str, io_loop: IOLoop) -> Iterator[Api]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    hero_fastapi.SessionLocal.configure(bind=engine)
    transport = ASGITransport(hero_fastapi.app, raise_app_exceptions=False)
    client = AsyncClient(transport=transport, base_url="http://localhost")

    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = io_loop.run_sync(lambda: client.request(method, path, json=body))
        return answer.status_code, answer.json()

    yield call
    io_loop.run_sync(client.aclose)
    engine.dispose()


@pytest.fixture
def api(request: pytest.FixtureRequest, ours: Api, fastapi: Api) -> Api:
    """The one or the other."""
    return {"ours": ours, "fastapi": fastapi}[request.param]


BOTH = pytest.mark.parametrize("api", ["ours", "fastapi"], indirect=True)


@BOTH
def test_a_hero_is_added_and_read(api: Api):
    status, made = api("POST", "/heroes", {"name": "Deadpond"})

    assert (status, made) == (201, {"id": made["id"], "name": "Deadpond", "age": None})
    assert api("GET", f"/heroes/{made['id']}") == (200, made)


@BOTH
@pytest.mark.parametrize("body", [{}, {"name": 7}, {"name": "x" * 65}, {"name": "x", "age": "old"}])
def test_a_body_that_is_wrong_is_refused(api: Api, body: Any):
    status, _ = api("POST", "/heroes", body)

    assert status == 422


@BOTH
def test_a_hero_that_is_not_there_is_404(api: Api):
    status, _ = api("GET", "/heroes/1")

    assert status == 404


@pytest.mark.parametrize(("api", "status"), [("ours", 503), ("fastapi", 201)], indirect=["api"])
def test_a_commit_that_fails(api: Api, status: int, sql: RawSql, expect_log: ExpectLog):
    """What the page says of both: here its error is the answer, there a success was read that is not so."""

    @event.listens_for(Session, "before_commit")
    def fail(session: Session) -> None:
        raise Unavailable("the database takes no writes at the moment")

    try:
        with expect_log("tornado.access", "^503", required=False), expect_log("onfinish", "", required=False):
            answered, _ = api("POST", "/heroes", {"name": "Deadpond"})
    finally:
        event.remove(Session, "before_commit", fail)

    assert answered == status
    assert sql("SELECT name FROM heroes") == []


def test_both_are_described(ours: Api):
    _, document = ours("GET", "/openapi.json")
    theirs = hero_fastapi.app.openapi()

    post = document["paths"]["/heroes"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/HeroNew"
    }
    assert post["responses"]["201"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/HeroOut"
    }
    assert document["paths"]["/heroes/{hero_id}"]["get"]["operationId"] == "get_hero"
    assert {*theirs["paths"]} == {"/heroes", "/heroes/{hero_id}"}
    assert {
        name: {*field} for name, field in theirs["components"]["schemas"]["HeroNew"]["properties"].items()
    }.keys() == (document["components"]["schemas"]["HeroNew"]["properties"].keys())
