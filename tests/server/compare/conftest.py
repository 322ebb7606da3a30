"""A scratch database for each backend: a scenario's commits disturb no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conf import DatabaseSettings
from server.compare.scratch import scratch_database
from tests.fixtures.postgres import PostgresCluster


@pytest.fixture(scope="module")
def sqlite_scratch() -> Iterator[DatabaseSettings]:
    with scratch_database(DatabaseSettings(url="sqlite:///never-made.db")) as settings:
        yield settings


@pytest.fixture(scope="module")
def postgresql_scratch(postgres_cluster: PostgresCluster) -> Iterator[DatabaseSettings]:
    name = postgres_cluster.create_database()
    with scratch_database(DatabaseSettings(url=postgres_cluster.url_for(name))) as settings:
        yield settings
    postgres_cluster.drop_database(name)


@pytest.fixture
def scratch(backend: str, request: pytest.FixtureRequest) -> DatabaseSettings:
    """A scratch database, shared by the module's tests on that backend."""
    settings: DatabaseSettings = request.getfixturevalue(f"{backend}_scratch")
    return settings
