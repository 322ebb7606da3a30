"""One process as others see it: its counts, its last ten minutes, and who may look."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from hmac import compare_digest

from tornado.httputil import HTTPServerRequest

from conf.hosts import ANY, canonical_host
from db import Database
from server.edge.hosts import LOCAL
from server.monitoring.exposition import Exposition
from server.monitoring.history import History, Sampler
from server.monitoring.metrics import Metrics
from server.monitoring.peers import Peers
from server.monitoring.route_names import RouteNames
from server.monitoring.shared_counters import SharedCounters

_FORWARDED = ("Forwarded", "Via", "X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
"""A request with one of these comes through a proxy: its loopback peer is not its sender."""


class Process:
    """One process that is counted and looked at. Lives as long as that.

    Args:
        hosts: that an operator's request may name, besides those of loopback.
        token: what each operator sends; then nothing else of a request counts.
        counters: the counts of all processes; one of this process alone by default.
        peers: the other processes.
        index: which of the processes this is.
        history: the last ten minutes of all processes; of this process alone by default.
        tracebacks: record where units of work are opened.
    """

    on_main_port = True
    """Whether the pages for operators are served where the application is."""

    def __init__(
        self,
        *,
        hosts: Iterable[str] = (),
        token: str | None = None,
        counters: SharedCounters | None = None,
        peers: Peers | None = None,
        index: int = 0,
        history: History | None = None,
        tracebacks: bool = True,
    ) -> None:
        self.index = index
        counters = counters or SharedCounters()
        self.peers = peers or Peers(1)
        self.history = history or History()
        self.metrics = Metrics(counters.slots[index], tracebacks=tracebacks)
        """The observer of the database."""
        self.exposition = Exposition(counters)
        self.names = RouteNames([])
        """The names of the application's routes."""
        self._hosts = {*LOCAL, *hosts}
        self._token = None if token is None else f"Bearer {token}".encode()

    def admits(self, request: HTTPServerRequest) -> bool:
        """Whether a request where the application is served comes from an operator.

        Its caller is on loopback, nothing shows a proxy before it, and its Host is one of this server's: a
        web page whose name points to 127.0.0.1 (DNS rebinding) has a caller on loopback as well. With a
        token, it has the token.
        """
        if self._token is not None:
            return compare_digest(request.headers.get("Authorization", "").encode(), self._token)
        host = request.host if request.host.endswith("]") else request.host.rsplit(":", 1)[0]
        return (
            _is_loopback(request.remote_ip)
            and request.version != "HTTP/1.0"  # of proxies: nginx before 1.29.7 where it is told nothing else
            and not any(name in request.headers for name in _FORWARDED)
            and (ANY in self._hosts or canonical_host(host) in self._hosts)
        )

    def sampler(self, database: Database) -> Sampler:
        """What takes the samples for the ten minutes, from its start until the database is closed."""
        sampler = Sampler(self.history, self.index, database, self.metrics.totals)
        database.closing.append(sampler.stop)
        return sampler


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
