"""The metrics of a process's requests and of its database, under OpenTelemetry's names.

https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from tornado.web import RequestHandler

from db.observer import ObservedUnit, Observer
from server.monitoring.history import COUNTS
from server.monitoring.route_names import UNMATCHED, RouteNames
from server.monitoring.shared_counters import Slot
from server.monitoring.tracebacks import origin_here

_METHODS = frozenset(RequestHandler.SUPPORTED_METHODS)
_OTHER_METHOD = "_OTHER"  # OpenTelemetry's value; a client may send any text

# The boundaries that OpenTelemetry recommends.
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_CONNECTION_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


class Family(NamedTuple):
    """A metric with its labels. A constant of this module."""

    name: str
    about: str
    kind: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """The count of numbers in a series: one, or a histogram's buckets and its sum."""
        return len(self.bounds) + 2 if self.bounds else 1


REQUESTS = Family(
    "http_server_request_duration_seconds",
    "Requests by route, from the first byte of the headers to the response.",
    "histogram",
    ("http_request_method", "http_route", "http_response_status_code"),
    _REQUEST_S,
)
# A gauge whose OpenTelemetry name ends in _count, which Prometheus reserves for histograms: `promtool check
# metrics` accepts it where the type is not declared.
CONNECTIONS = Family("db_client_connection_count", "Connections that are open.", "untyped", ("pool", "state"))
CONNECTIONS_MAX = Family("db_client_connection_max", "Connections that may be open.", "gauge", ("pool",))
PENDING = Family(
    "db_client_connection_pending_requests", "Units of work that wait for a slot.", "gauge", ("pool",)
)
TIMEOUTS = Family(
    "db_client_connection_timeouts_total", "Units of work that got no slot in time.", "counter", ("pool",)
)
WAIT = Family(
    "db_client_connection_wait_time_seconds",
    "How long a unit of work waited for its slot.",
    "histogram",
    ("pool",),
    _CONNECTION_S,
)
USE = Family(
    "db_client_connection_use_time_seconds",
    "How long a connection was checked out of its pool.",
    "histogram",
    ("pool",),
    _CONNECTION_S,
)
UNITS = Family("onfinish_units_of_work_total", "Units of work by outcome.", "counter", ("pool", "outcome"))
RETRIES = Family("onfinish_runs_again_total", "Retries of requests and messages.", "counter", ("reason",))
MARKERS = Family(
    "onfinish_commit_markers_asked_total",
    "COMMITs without an answer, by what their marker showed.",
    "counter",
    ("answer",),
)
LEFT = Family("onfinish_commits_left", "COMMITs that were cut, and that the server is still at.", "gauge", ())
UNREPLICATED = Family(
    "onfinish_commits_unreplicated_total",
    "COMMITs whose wait for a synchronous standby was cancelled.",
    "counter",
    (),
)
LAG = Family(
    "onfinish_replica_lag_seconds", "How far behind its primary the reader's server is.", "gauge", ()
)
STANDBY = Family(
    "onfinish_reader_on_standby", "1 where reads go to a standby, 0 where to a primary.", "gauge", ()
)
FAILOVERS = Family(
    "onfinish_failovers_total", "Times that the writer found another server in its place.", "counter", ()
)
READS_AFTER = Family(
    "onfinish_reads_after_write_total",
    "Reads with the token of a write, by how they ended.",
    "counter",
    ("how",),
)
WRITES_LOST = Family(
    "onfinish_writes_lost_total", "Reads that told of a write that a failover has lost.", "counter", ()
)
LEAKS = Family(
    "onfinish_leaks_total", "Units of work that stayed open for longer than leak_s.", "counter", ()
)
LAGS = Family("onfinish_loop_lags_total", "Times that the event loop was blocked for lag_s.", "counter", ())
RUNNING = Family("onfinish_processes", "Processes that serve.", "gauge", ())
STARTS = Family("onfinish_process_starts_total", "Processes that were started.", "counter", ())

FAMILIES = (
    REQUESTS,
    CONNECTIONS,
    CONNECTIONS_MAX,
    PENDING,
    TIMEOUTS,
    WAIT,
    USE,
    UNITS,
    RETRIES,
    MARKERS,
    LEFT,
    UNREPLICATED,
    LAG,
    STANDBY,
    FAILOVERS,
    READS_AFTER,
    WRITES_LOST,
    LEAKS,
    LAGS,
    RUNNING,
    STARTS,
)

# Where a series of theirs has its sum, behind its buckets: asked for with each request.
_REQUESTS_SUM = len(_REQUEST_S) + 1
_CONNECTIONS_SUM = len(_CONNECTION_S) + 1

GAUGES = frozenset(family.name for family in FAMILIES if family.kind in ("gauge", "untyped"))


_TOTALS = {RETRIES.name: "retries", TIMEOUTS.name: "refused"}


class _Pool(NamedTuple):
    """The offsets of one pool's numbers. Lives as long as the process: they are needed with each request."""

    used: int
    idle: int
    pending: int
    timeouts: int
    wait: int
    use: int


class Metrics(Observer):
    """The metrics of one process. Lives as long as that; its numbers live in a slot of the `SharedCounters`.

    Requests are counted where `answered` or `log_function` are set in the application.

    Args:
        slot: the process's own.
        tracebacks: record where units of work are opened, for the watchdog.
    """

    def __init__(self, slot: Slot, *, tracebacks: bool = False) -> None:
        slot.take()
        slot.clear(GAUGES)
        self._slot = slot
        self._tracebacks = tracebacks
        self._numbers = slot.numbers
        # An increment is a read and a write, between which another thread may run.
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, str, int], int] = {}
        self._offsets: dict[tuple[str, ...], int] = {}
        self._pools: dict[str, _Pool] = {}
        self._add(LEFT, by=0)
        self._add(UNREPLICATED, by=0)
        self._add(FAILOVERS, by=0)
        for how in ("reader", "waited", "primary"):
            self._add(READS_AFTER, how, by=0)
        self._add(WRITES_LOST, by=0)
        self._add(LEAKS, by=0)
        self._add(LAGS, by=0)
        self._add(RUNNING)
        self._add(STARTS)

    def log_function(
        self, names: RouteNames, then: Callable[[RequestHandler], None]
    ) -> Callable[[RequestHandler], None]:
        """A ``log_function`` for Tornado that counts each response and then calls ``then``."""

        def counted(handler: RequestHandler) -> None:
            request = handler.request
            self.answered(
                method=request.method or "",
                route=names.of_handler(handler),
                status=handler.get_status(),
                took_s=request.request_time(),
            )
            then(handler)

        return counted

    def answered(self, *, method: str, route: str = UNMATCHED, status: int, took_s: float) -> None:
        """A request was answered. Called on the event loop only."""
        at = self._requests.get((method, route, status))
        if at is None:
            method_ = method if method in _METHODS else _OTHER_METHOD
            at = self._slot.offset_of(REQUESTS.name, (method_, route, str(status)), REQUESTS.size)
            if method_ == method:
                self._requests[method, route, status] = at
        numbers = self._numbers
        numbers[at + bisect_left(_REQUEST_S, took_s)] += 1.0
        numbers[at + _REQUESTS_SUM] += took_s

    def allow(self, pool: str, connections: int) -> None:
        """Set how many connections a pool may have."""
        self._add(CONNECTIONS_MAX, pool, by=connections)
        self._pool(pool)  # so that its series exist before the first connection

    def totals(self) -> list[float]:
        """The counts of this process and of those before it, in the order of `history.COUNTS`."""
        found = dict.fromkeys(COUNTS, 0.0)
        for (family, labels), at in self._slot.offsets():
            if family == UNITS.name and labels[1] in found:
                found[labels[1]] += self._numbers[at]
            elif family in _TOTALS:
                found[_TOTALS[family]] += self._numbers[at]
        return [*found.values()]

    def leaked(self) -> None:
        """A unit of work stayed open for too long."""
        self._add(LEAKS)

    def lagged(self) -> None:
        """The event loop was blocked."""
        self._add(LAGS)

    def queued(self, pool: str) -> None:
        """See `Observer`."""
        self._move(self._pool(pool).pending, +1)

    def waited(self, pool: str, waited_s: float, *, queued: bool, in_vain: bool = False) -> None:
        """See `Observer`."""
        at, numbers = self._pools.get(pool) or self._pool(pool), self._numbers
        with self._lock:
            if queued:
                numbers[at.pending] -= 1.0
            if in_vain:
                numbers[at.timeouts] += 1.0
            else:
                numbers[at.wait + bisect_left(_CONNECTION_S, waited_s)] += 1.0
                numbers[at.wait + _CONNECTIONS_SUM] += waited_s

    def connected(self, pool: str) -> None:
        """See `Observer`."""
        self._move(self._pool(pool).idle, +1)

    def disconnected(self, pool: str) -> None:
        """See `Observer`."""
        self._move(self._pool(pool).idle, -1)

    def checked_out(self, pool: str) -> None:
        """See `Observer`."""
        at, numbers = self._pools.get(pool) or self._pool(pool), self._numbers
        with self._lock:
            numbers[at.idle] -= 1.0
            numbers[at.used] += 1.0

    def checked_in(self, pool: str, used_s: float) -> None:
        """See `Observer`."""
        at, numbers = self._pools.get(pool) or self._pool(pool), self._numbers
        with self._lock:
            numbers[at.used] -= 1.0
            numbers[at.idle] += 1.0
            numbers[at.use + bisect_left(_CONNECTION_S, used_s)] += 1.0
            numbers[at.use + _CONNECTIONS_SUM] += used_s

    def opened(self, unit: ObservedUnit) -> None:
        """See `Observer`."""
        if self._tracebacks:
            unit.observed = origin_here(skip=1)

    def ended(self, unit: ObservedUnit) -> None:
        """See `Observer`."""
        # Not `.value`, which Python 3.11 looks up by two calls of its own.
        self._add(UNITS, unit.pool, unit.outcome._value_)

    def marker_asked(self, answer: str) -> None:
        """See `Observer`."""
        self._add(MARKERS, answer)

    def left(self, change: int) -> None:
        """See `Observer`."""
        self._add(LEFT, by=change)

    def unreplicated(self) -> None:
        """See `Observer`."""
        self._add(UNREPLICATED)

    def behind(self, behind_s: float | None) -> None:
        """See `Observer`."""
        self._set(LAG, 0.0 if behind_s is None else behind_s)
        self._set(STANDBY, float(behind_s is not None))

    def failover(self) -> None:
        """See `Observer`."""
        self._add(FAILOVERS)

    def read_after(self, how: str) -> None:
        """See `Observer`."""
        self._add(READS_AFTER, how)

    def write_lost(self) -> None:
        """See `Observer`."""
        self._add(WRITES_LOST)

    def retries(self, reason: str) -> None:
        """See `Observer`."""
        self._add(RETRIES, reason)

    def _add(self, family: Family, *labels: str, by: float = 1.0) -> None:
        at = self._offsets.get((family.name, *labels))
        if at is None:
            at = self._offset(family, labels)
        with self._lock:
            self._numbers[at] += by

    def _set(self, family: Family, number: float) -> None:
        self._add(family, by=0)
        self._numbers[self._offsets[(family.name,)]] = number

    def _move(self, at: int, by: float) -> None:
        with self._lock:
            self._numbers[at] += by

    def _pool(self, name: str) -> _Pool:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool(
                used=self._offset(CONNECTIONS, (name, "used")),
                idle=self._offset(CONNECTIONS, (name, "idle")),
                pending=self._offset(PENDING, (name,)),
                timeouts=self._offset(TIMEOUTS, (name,)),
                wait=self._offset(WAIT, (name,)),
                use=self._offset(USE, (name,)),
            )
        return pool

    def _offset(self, family: Family, labels: tuple[str, ...]) -> int:
        at = self._offsets[family.name, *labels] = self._slot.offset_of(family.name, labels, family.size)
        return at
