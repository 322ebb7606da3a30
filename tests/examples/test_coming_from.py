"""The same orders on FastAPI, on Flask, and here: the same calls, and what the documents say of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Protocol

import pytest
from fastapi import APIRouter, Depends
from httpx import ASGITransport, AsyncClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop
from tornado.routing import URLSpec

from conf import Settings
from db import Database
from handlers import ApiHandler
from server.app import make_app
from tests.examples.coming_from import fastapi_after, fastapi_before, flask_after, flask_before
from tests.examples.migration.tables import Base, Order
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve


class Api(Protocol):
    """Sends one request and returns the status, with the body decoded."""

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]: ...


def writes(session: Session) -> None:
    session.add(Order(text="from a GET"))


class WritesHandler(ApiHandler):
    async def get(self) -> None:
        await self.run(writes, self.session)


def on_tornado(app: Any, serve: Serve, io_loop: IOLoop) -> Api:
    client = serve(app)

    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = io_loop.run_sync(lambda: client.request(method, path, body))
        return answer.code, answer.json()

    return call


@pytest.fixture
def of_fastapi_after(database: Database, settings: Settings, serve: Serve, io_loop: IOLoop) -> Api:
    database.create_all(Base.metadata)
    routes = [*fastapi_after.ROUTES, URLSpec("/writes", WritesHandler)]
    return on_tornado(make_app(settings, database, routes=routes), serve, io_loop)


@pytest.fixture
def of_flask_after(database_url: str, serve: Serve, io_loop: IOLoop) -> Iterator[Api]:
    app = flask_after.make_app(database_url)
    app.settings["log_function"] = lambda handler: None
    yield on_tornado(app, serve, io_loop)
    io_loop.run_sync(app.settings["database"].close)


@pytest.fixture
def of_fastapi_before(database_url: str, database: Database, io_loop: IOLoop) -> Iterator[Api]:
    database.create_all(Base.metadata)
    url = database_url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    engine = create_async_engine(url)
    fastapi_before.SessionLocal.configure(bind=engine)
    router = APIRouter()

    @router.get("/writes")
    def get_writes(session: Annotated[AsyncSession, Depends(fastapi_before.get_session)]) -> None:
        session.add(Order(text="from a GET"))

    fastapi_before.app.include_router(router)
    transport = ASGITransport(fastapi_before.app, raise_app_exceptions=False)
    client = AsyncClient(transport=transport, base_url="http://localhost")

    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = io_loop.run_sync(lambda: client.request(method, path, json=body))
        return answer.status_code, answer.json() if "json" in answer.headers["Content-Type"] else None

    yield call
    io_loop.run_sync(client.aclose)
    io_loop.run_sync(engine.dispose)


@pytest.fixture
def of_flask_before(database_url: str) -> Iterator[Api]:
    app = flask_before.make_app(database_url)
    client = app.test_client()

    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = client.open(path, method=method, json=body)
        return answer.status_code, answer.get_json(silent=True)

    yield call
    with app.app_context():
        flask_before.db.engine.dispose()


@pytest.fixture
def api(form: str, database_url: str, request: pytest.FixtureRequest) -> Api:
    made: Api = request.getfixturevalue(f"of_{form}")
    return made


@pytest.fixture
def orders(sql: RawSql) -> Callable[[], list[str]]:
    """The texts in the database, past the application."""
    return lambda: [row["text"] for row in sql("SELECT text FROM orders ORDER BY text")]


@pytest.fixture
def failing_commits() -> Iterator[None]:
    """Every COMMIT of a session fails, as where the database is lost."""

    def fail(session: Session) -> None:
        raise OperationalError("COMMIT", None, RuntimeError("the database takes no writes"))

    event.listen(Session, "before_commit", fail)
    yield
    event.remove(Session, "before_commit", fail)


FORMS = ("fastapi_before", "fastapi_after", "flask_before", "flask_after")
on_every_form = pytest.mark.parametrize("form", FORMS)


@on_every_form
def test_an_order_is_taken_and_listed(form: str, api: Api):
    """What moves keeps its behaviour."""
    status, made = api("POST", "/orders", {"text": "pears"})

    assert (status, made["text"]) == (201, "pears")
    assert api("GET", "/orders") == (200, [made])


@on_every_form
def test_an_order_that_is_answered_409(form: str, api: Api, orders: Callable[[], list[str]]):
    """Where the end of FastAPI's dependency commits, what is kept is not a matter of the status."""
    status, _ = api("POST", "/orders", {"text": "a unicorn"})

    assert status == 409
    assert orders() == (["a unicorn"] if form == "fastapi_before" else [])


@on_every_form
@pytest.mark.usefixtures("failing_commits")
def test_a_commit_that_fails(form: str, api: Api, orders: Callable[[], list[str]], expect_log: ExpectLog):
    """It is an error everywhere but where it comes behind the answer."""
    with expect_log("", "", level=30, required=False):
        status, _ = api("POST", "/orders", {"text": "pears"})

    assert status == 201 if form == "fastapi_before" else status >= 500
    assert orders() == []


@pytest.mark.parametrize(("form", "kept"), [("fastapi_before", ["from a GET"]), ("fastapi_after", [])])
def test_a_get_that_writes(
    form: str, kept: list[str], api: Api, orders: Callable[[], list[str]], expect_log: ExpectLog
):
    with expect_log("", "", level=30, required=False):
        status, _ = api("GET", "/writes")

    assert orders() == kept
    assert (status == 200) == bool(kept)
