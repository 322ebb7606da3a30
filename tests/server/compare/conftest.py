"""A scratch database for each backend: a scenario's commits disturb no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from conf import DatabaseSettings
from server.compare.scratch import scratch_database
from tests.fixtures.backends import Backend
from tests.fixtures.postgres import PostgresCluster

Scratches = Callable[[Backend], DatabaseSettings]


@pytest.fixture(scope="module")
def scratches(request: pytest.FixtureRequest) -> Iterator[Scratches]:
    """The scratch database of a backend, made when it is first asked for."""
    made: dict[str, DatabaseSettings] = {}
    with ExitStack() as stack:

        def scratch(backend: Backend) -> DatabaseSettings:
            if backend.scheme not in made:
                url = f"{backend.scheme}:///never-made.db"
                if backend == "postgresql":
                    cluster: PostgresCluster = request.getfixturevalue("postgres_cluster")
                    name = cluster.create_database()
                    stack.callback(cluster.drop_database, name)
                    url = cluster.url_for(name).replace("postgresql", backend.scheme, 1)
                made[backend.scheme] = stack.enter_context(scratch_database(DatabaseSettings(url=url)))
            return made[backend.scheme]

        yield scratch


@pytest.fixture
def scratch(backend: Backend, scratches: Scratches) -> DatabaseSettings:
    """A scratch database, shared by the module's tests on that backend."""
    return scratches(backend)
