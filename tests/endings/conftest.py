"""The world that programs are played in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from tests.endings.world import World
from tests.fixtures.backends import Backend
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import Ear


@pytest.fixture
def world(
    io_loop: IOLoop, database_settings: DatabaseSettings, backend: Backend, sql: RawSql, log_ear: Ear
) -> Iterator[World]:
    """The world, on the test's own database."""
    with sql.connect() as raw:
        world = World(io_loop, database_settings, backend, sql, raw, log_ear)
        yield world
        world.close()
