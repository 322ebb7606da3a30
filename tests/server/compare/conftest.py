"""A place to compare on, one a backend: what a scenario commits disturbs no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conf import DatabaseSettings
from server.compare.place import own_place
from tests.fixtures.postgres import PostgresCluster


@pytest.fixture(scope="module")
def sqlite_place() -> Iterator[DatabaseSettings]:
    with own_place(DatabaseSettings(url="sqlite:///never-made.db")) as settings:
        yield settings


@pytest.fixture(scope="module")
def postgresql_place(postgres_cluster: PostgresCluster) -> Iterator[DatabaseSettings]:
    name = postgres_cluster.create_database()
    with own_place(DatabaseSettings(url=postgres_cluster.url_for(name))) as settings:
        yield settings
    postgres_cluster.drop_database(name)


@pytest.fixture
def place(backend: str, request: pytest.FixtureRequest) -> DatabaseSettings:
    """A migrated database, shared by the module's tests on that backend."""
    settings: DatabaseSettings = request.getfixturevalue(f"{backend}_place")
    return settings
