"""The pages for operators: ``/metrics`` and ``/stats``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, Protocol

from tornado.httputil import HTTPServerRequest
from tornado.routing import URLSpec
from tornado.web import Application, HTTPError, RequestHandler

from conf import Settings
from conf.hosts import canonical_host
from db import Database
from handlers import NotFoundHandler
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.errors import Problem
from handlers.openapi.operation import OPERATION, Answer, operation
from server.edge.hosts import hosts_of
from server.edge.http import DrainingServer
from server.edge.listening import LOOPBACK
from server.monitoring import responses
from server.monitoring.exposition import CONTENT_TYPE
from server.monitoring.process import Process
from server.monitoring.route_names import RouteNames
from server.monitoring.stats import Stats
from server.monitoring.watchdog import Watchdog

_FOR_OPERATORS = (
    "At `ops.port` on loopback, and nowhere else, where that is set. Elsewhere here, except in production: "
    "for callers on loopback that no proxy stands before; to all others it is not there."
)
_NOT_FOR_STRANGERS = Problem(404, "Not Found")


class Part(Protocol):
    """What stands beside the two pages, where they are served. Lives as long as the process."""

    def ops_routes(self, *, local: bool) -> list[URLSpec]:
        """Its routes beside those of the two pages.

        Args:
            local: on the main port, which untrusted clients may reach too.
        """

    def start(self, server: DrainingServer) -> None:
        """The process is about to serve."""


class Ops(Process):
    """The monitoring of one process of the server. Lives as long as that.

    Args:
        settings: those of the service.
        options: those of `Process`.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        own = canonical_host(settings.http.address)
        hosts = (*settings.http.hosts, *settings.ops.hosts, *([own] if own else []))
        super().__init__(hosts=hosts, tracebacks=settings.ops.leak_s is not None, **options)
        self._settings = settings
        self._watchdog: Watchdog | None = None
        self._server: DrainingServer | None = None
        self.parts: list[Part] = []
        """What is served beside the two pages; started with this."""

    @property
    def on_main_port(self) -> bool:  # type: ignore[override]
        """Whether the pages for operators are served on the main port."""
        return not self._settings.production and self._settings.ops.port is None

    @property
    def routes(self) -> list[URLSpec]:
        """The pages for the main port; none where they are not served there."""
        return self._routes(local=True) if self.on_main_port else []

    def admits(self, request: HTTPServerRequest) -> bool:
        """As `Process.admits`; never in production."""
        return not self._settings.production and super().admits(request)

    def log_function(
        self, routes: Sequence[URLSpec], then: Callable[[RequestHandler], None]
    ) -> Callable[[RequestHandler], None]:
        """A ``log_function`` for an application of these routes: counts a response, then calls ``then``."""
        self.names = RouteNames(routes)
        return self.metrics.log_function(self.names, then)

    async def start(self, application: Application, database: Database, server: DrainingServer) -> None:
        """Start answering ``/stats``, for a process that is about to serve."""
        for endpoint in {database.writer, database.reader}:
            self.metrics.allow(endpoint.limiter.name, endpoint.limiter.size)
        stats = Stats(self.index, database, self.names, application, server)
        await self.peers.listen(self.index, stats.look)
        for part in self.parts:
            part.start(server)

    def watch(self, database: Database) -> None:
        """Start the watchdog of a process that serves, on its loop."""
        self._watchdog = Watchdog(self._settings.ops, database, self.metrics, self.names)
        self._watchdog.start()
        self.sampler(database).start()

    def listen(self, sockets: Sequence[socket]) -> None:
        """Serve the pages for operators, and nothing else, on ``ops.port``."""
        application = Application(
            self._routes(local=False),
            default_handler_class=NotFoundHandler,
            log_function=lambda handler: None,  # else each scrape would be a line
        )
        hosts = hosts_of(
            self._settings.ops.hosts,
            setting="ops.hosts",
            production=self._settings.production,
            address=LOOPBACK,
            sockets=sockets,
        )
        self._server = DrainingServer(application, self._settings.http, hosts=hosts)
        self._server.add_sockets(sockets)

    async def stop(self) -> None:
        """Stop the monitoring."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        self.peers.close()

    def _routes(self, *, local: bool) -> list[URLSpec]:
        beside = [route for part in self.parts for route in part.ops_routes(local=local)]
        return [*pages({"ops": self, "local": local}), *beside]


class OpsHandler(ProblemHandler):
    """A page for operators. Lives as long as one request."""

    def initialize(self, ops: Process, local: bool) -> None:
        """Take the route's arguments.

        Args:
            local: on the main port, which untrusted clients may reach too.
        """
        self.ops = ops
        self.local = local

    def prepare(self) -> None:
        """On the main port, 404 for callers that `Process.admits` does not admit."""
        if self.local and not self.ops.admits(self.request):
            raise HTTPError(404)


class MetricsHandler(OpsHandler):
    """The counts of all processes."""

    @operation(
        name="get_metrics",
        tag=OPERATION,
        summary="What a Prometheus server collects",
        description=_FOR_OPERATORS,
        answers=(
            Answer(
                200,
                "Prometheus' text format, names as OpenTelemetry has them.",
                str,
                responses.METRICS,
                media_type="text/plain",
            ),
        ),
        errors=(_NOT_FOR_STRANGERS,),
    )
    def get(self) -> None:
        """All metrics in Prometheus' text format."""
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(self.ops.exposition.text())


class StatsHandler(OpsHandler):
    """The state of all processes."""

    @operation(
        name="get_stats",
        tag=OPERATION,
        summary="What each process is doing: pools, slots, open units of work",
        description=_FOR_OPERATORS,
        answers=(Answer(200, "Process by process.", responses.Stats, responses.STATS),),
        errors=(_NOT_FOR_STRANGERS,),
    )
    async def get(self) -> None:
        """Each process's pools, slots and open units of work; for one that does not answer, an error."""
        self.write_json({"processes": await self.ops.peers.ask()})


def pages(arguments: dict[str, Any] | None = None) -> list[URLSpec]:
    """The routes of the two pages.

    Args:
        arguments: of their handlers; none where the routes are only described.
    """
    return [
        URLSpec("/metrics", MetricsHandler, arguments, name="metrics"),
        URLSpec("/stats", StatsHandler, arguments, name="stats"),
    ]
