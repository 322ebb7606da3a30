"""The board's tasks under each scope."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop
from tornado.web import Application

from tests.fixtures.server import Client, Serve


@pytest.fixture
def client(app: Application, serve: Serve, io_loop: IOLoop) -> Iterator[Client]:
    """A client for the board that also asks for what its OpenAPI document does not describe."""
    yield serve(app)
    io_loop.run_sync(app.settings["twins"].close)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.gen_test
async def test_the_service_mounts_the_task_resource_alone(client: Client):
    """At ``/<scope>/tasks``, and no teams beside it."""
    found = {
        path: (await client.get(path)).code
        for path in ("/contextvar/tasks", "/registry/tasks", "/contextvar/teams", "/contextvar/livez")
    }

    assert found == {
        "/contextvar/tasks": 200,
        "/registry/tasks": 200,
        "/contextvar/teams": 404,
        "/contextvar/livez": 404,
    }
