"""A server in the test's own process that can be seen as one in production can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application

from conf import OpsSettings, Settings
from db import Database
from server.edge.http import DrainingServer
from server.monitoring.ops import Ops
from tests.fixtures.server import Client
from tests.fixtures.service import MakeApp
from tests.fixtures.warm import WarmPython

Numbers = dict[tuple[str, ...], float]


class Seen:
    """A served application with all that looks at it. Lives as long as one test."""

    def __init__(self, settings: Settings, make_application: MakeApp) -> None:
        self.settings = settings
        self.ops = Ops(settings)
        self.database = Database(settings.database, observer=self.ops.metrics)
        self.application: Application = make_application(settings, self.database, self.ops)
        self.server = DrainingServer(self.application, settings.http)
        listening, port = bind_unused_port()
        self.server.add_socket(listening)
        self.client = Client(port)

    async def start(self) -> None:
        """Begin to look."""
        await self.ops.start(self.application, self.database, self.server)
        self.ops.watch(self.database)

    async def stop(self) -> None:
        """End it all."""
        await self.ops.stop()
        self.client.close()
        self.server.stop()
        await self.database.close()
        await self.server.close_all_connections()

    def numbers(self) -> Numbers:
        """What ``/metrics`` shows: name and label values (in the order of the labels' names) to numbers."""
        return numbers_of(self.ops.exposition.text())

    async def stats(self) -> dict[str, Any]:
        """What ``/stats`` shows of this process."""
        [process] = (await self.client.get("/stats")).json()["processes"]
        found: dict[str, Any] = process
        return found


def numbers_of(text: bytes) -> Numbers:
    """Read Prometheus' text format as Prometheus does."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def ops_settings() -> OpsSettings:
    """How the service is watched; a test may override this. The loop is not: on a busy machine it lags."""
    return OpsSettings(lag_s=None)


@pytest.fixture
def seen(
    settings: Settings, ops_settings: OpsSettings, make_application: MakeApp, io_loop: IOLoop
) -> Iterator[Seen]:
    """The application on the test's own database, served and watched."""
    made: list[Seen] = []

    async def start() -> Seen:
        made.append(Seen(settings.model_copy(update={"ops": ops_settings}), make_application))
        await made[0].start()
        return made[0]

    yield io_loop.run_sync(start)
    io_loop.run_sync(made[0].stop)


@pytest.fixture(autouse=True)
def forked_processes(warm_python: WarmPython) -> None:
    """The command line is run by processes that are forked with their libraries loaded."""
