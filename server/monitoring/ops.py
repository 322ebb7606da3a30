"""The pages for operators: ``/metrics`` and ``/stats``."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, Protocol

from tornado.httputil import HTTPServerRequest
from tornado.routing import URLSpec
from tornado.web import Application, HTTPError, RequestHandler

from conf import Settings
from conf.hosts import ANY, canonical_host
from db import Database
from handlers import NotFoundHandler
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.errors import Problem
from handlers.openapi.operation import OPERATION, Answer, operation
from server.edge.hosts import LOCAL, hosts_of
from server.edge.http import DrainingServer
from server.edge.listening import LOOPBACK
from server.monitoring import responses
from server.monitoring.exposition import CONTENT_TYPE, Exposition
from server.monitoring.history import History, Sampler
from server.monitoring.metrics import Metrics
from server.monitoring.peers import Peers
from server.monitoring.route_names import RouteNames
from server.monitoring.shared_counters import SharedCounters
from server.monitoring.stats import Stats
from server.monitoring.watchdog import Watchdog

_FORWARDED = ("Forwarded", "Via", "X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
"""A request with one of these comes through a proxy: its loopback peer is not its sender."""

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

    def start(self, database: Database, server: DrainingServer) -> None:
        """The process is about to serve."""

    async def stop(self) -> None:
        """The process ends."""


class Ops:
    """The monitoring of one process. Lives as long as that.

    Args:
        settings: those of the service.
        counters: the counts of all processes; one of this process alone by default.
        peers: the other processes.
        index: which of the processes this is.
        history: the last ten minutes of all processes; of this process alone by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        counters: SharedCounters | None = None,
        peers: Peers | None = None,
        index: int = 0,
        history: History | None = None,
    ) -> None:
        self._settings = settings
        self.index = index
        self._counters = counters or SharedCounters()
        self.peers = peers or Peers(1)
        self.history = history or History()
        self._sampler: Sampler | None = None
        self.exposition = Exposition(self._counters)
        self.metrics = Metrics(self._counters.slots[index], tracebacks=settings.ops.leak_s is not None)
        """The observer of the database."""
        self.names = RouteNames([])
        """The names of the application's routes."""
        self._watchdog: Watchdog | None = None
        self._server: DrainingServer | None = None
        self._hosts = {*LOCAL, *settings.http.hosts, *settings.ops.hosts}
        if (own := canonical_host(settings.http.address)) is not None:
            self._hosts.add(own)
        self.parts: list[Part] = []
        """What is served beside the two pages; started and stopped with this."""

    @property
    def on_main_port(self) -> bool:
        """Whether the pages for operators are served on the main port."""
        return not self._settings.production and self._settings.ops.port is None

    @property
    def routes(self) -> list[URLSpec]:
        """The pages for the main port; none where they are not served there."""
        return self._routes(local=True) if self.on_main_port else []

    def admits(self, request: HTTPServerRequest) -> bool:
        """Whether a request of the main port comes from an operator.

        Its caller is on loopback, no proxy stands before it, and its Host is one of this server's: a web page
        whose name points to 127.0.0.1 (DNS rebinding) has a caller on loopback as well.
        """
        host = request.host if request.host.endswith("]") else request.host.rsplit(":", 1)[0]
        return (
            _is_loopback(request.remote_ip)
            and not any(name in request.headers for name in _FORWARDED)
            and (ANY in self._hosts or canonical_host(host) in self._hosts)
        )

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
            part.start(database, server)

    def watch(self, database: Database) -> None:
        """Start the watchdog of a process that serves, on its loop."""
        self._watchdog = Watchdog(self._settings.ops, database, self.metrics, self.names)
        self._watchdog.start()
        self._sampler = Sampler(self.history, self.index, database, self.metrics.totals)
        self._sampler.start()

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
        if self._sampler is not None:
            self._sampler.stop()
        for part in self.parts:
            await part.stop()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        self.peers.close()

    def _routes(self, *, local: bool) -> list[URLSpec]:
        beside = [route for part in self.parts for route in part.ops_routes(local=local)]
        return [*pages({"ops": self, "local": local}), *beside]


class OpsHandler(ProblemHandler):
    """A page for operators. Lives as long as one request."""

    def initialize(self, ops: Ops, local: bool) -> None:
        """Take the route's arguments.

        Args:
            local: on the main port, which untrusted clients may reach too.
        """
        self.ops = ops
        self.local = local

    def prepare(self) -> None:
        """On the main port, 404 for callers that `Ops.admits` does not admit."""
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


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
