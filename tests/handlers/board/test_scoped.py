"""The task resource once more, on its own database, under scopes where it finds its session by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import Settings
from db import Database
from db.board.tasks import Task
from db.board.teams import create_team
from db.scope import ThreadLocal
from server.app import make_app
from server.compare.mount import Twins
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client, Serve
from tests.handlers import custody

pytestmark = pytest.mark.gen_test

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}
SOUND = ["contextvar", "registry"]


@pytest.fixture
def client(app: Application, serve: Serve) -> Client:
    """A client for the board that also asks for what its OpenAPI document does not describe."""
    return serve(app)


@pytest.fixture
def twins(app: Application, client: Client, io_loop: IOLoop) -> Iterator[Twins]:
    """The application's twins, which the lifecycle of a server closes."""
    twins: Twins = app.settings["twins"]
    yield twins
    io_loop.run_sync(twins.close)


async def tasks_in(database: Database) -> list[tuple[int, int | None, int]]:
    """The status, team and version of each task."""

    def read(session: Session) -> list[tuple[int, int | None, int]]:
        return [(task.task_status, task.team_id, task.version) for task in session.scalars(select(Task))]

    async with database.unit_of_work(read_only=True) as unit:
        return await unit.run(read, unit.session)


@pytest.mark.parametrize("scope", SOUND)
async def test_a_task_is_made_changed_moved_and_taken_away_as_without_a_scope(
    scope: str, client: Client, twins: Twins, sql: RawSql
):
    """Each call answers what ``/tasks`` answers, and what it writes is in the twins' database alone."""
    async with twins.database.unit_of_work() as unit:
        team = (await unit.run(create_team, unit.session, name="red")).id

    made = await client.post(f"/{scope}/tasks", TASK)
    path = made.headers["Location"]
    changed = await client.patch(path, {"task_status": 102})
    moved = await client.post(f"{path}/transfer", {"from_team_id": None, "to_team_id": team})
    read, listed = await client.get(path), await client.get(f"/{scope}/tasks?status=102")
    log = await client.get(f"{path}/transfers")

    assert [made.code, changed.code, moved.code, read.code, log.code] == [201, 200, 200, 200, 200]
    assert path == f"/{scope}/tasks/{made.json()['id']}"
    assert await tasks_in(twins.database) == [(102, team, 3)]
    assert sql("SELECT id FROM tasks") == []
    assert (await client.get(f"/tasks/{made.json()['id']}")).code == 404
    assert read.json() == moved.json()["task"]
    assert listed.json()["items"] == [read.json()]
    assert len(log.json()["items"]) == 1
    assert (await client.delete(path)).code == 204
    assert (await client.get(path)).code == 404
    assert await tasks_in(twins.database) == []


@pytest.mark.parametrize("scope", SOUND)
async def test_what_is_refused_is_undone_under_a_scope_too(scope: str, client: Client, twins: Twins):
    """The unit of work, the held response and the errors are those of every request."""
    made = await client.post(f"/{scope}/tasks", TASK)

    refused = await client.post(f"/{scope}/tasks", {**TASK, "id": made.json()["id"]})
    nowhere = await client.post(f"{made.headers['Location']}/transfer", {"from_team_id": 9, "to_team_id": 8})

    assert (refused.code, nowhere.code) == (409, 422)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert [version for _, _, version in await tasks_in(twins.database)] == [1]
    assert custody.lent(twins.database) == {}


async def test_a_thread_local_task_is_acknowledged_and_lost(client: Client, twins: Twins, database: Database):
    """The control: the work went to a session of the pool's thread, which is never committed or closed. Its
    connection and its locks are those of the twins' database: the product answers as before."""
    made = await client.post("/threadlocal/tasks", TASK)
    others = [(await client.post("/tasks", TASK)).code for _ in range(database.writer.limiter.size + 1)]

    assert made.code == 201
    assert others == [201] * len(others)
    assert (await client.get("/readyz")).code == 200
    assert custody.lent(twins.database) == {"writer connections": 1}
    assert custody.lent(database) == {}
    [scope] = [scope for scope in twins.scopes if isinstance(scope, ThreadLocal)]
    assert len(scope.made) == 1
    scope.close()
    assert await tasks_in(twins.database) == []


async def test_without_compare_mount_there_is_none_of_it(
    settings: Settings, database: Database, serve: Serve
):
    """Nothing that is wrong on purpose is served unless it is asked for."""
    settings = settings.model_copy(update={"compare": settings.compare.model_copy(update={"mount": False})})
    client = serve(make_app(settings, database))

    answers = [await client.get(f"/{scope}/tasks") for scope in [*SOUND, "threadlocal"]]

    assert [answer.code for answer in answers] == [404, 404, 404]
    assert (await client.get("/tasks")).code == 200
