"""The counters in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from server.monitoring.metrics import FAMILIES, Family
from server.monitoring.shared_counters import SharedCounters

CONTENT_TYPE = CONTENT_TYPE_LATEST

_KINDS: Mapping[str, type[CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "untyped": UnknownMetricFamily,
}

_NOT_SUMS = {"process_start_time_seconds": min, "process_max_fds": min}
"""The metrics of several processes that are not summed up."""


class Exposition(Collector):
    """The numbers of all processes of a server. Lives as long as its process; any process can show them."""

    def __init__(self, counters: SharedCounters) -> None:
        self._counters = counters
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: prometheus_client would otherwise collect everything once, only for the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families; called by prometheus_client."""
        by_family: dict[str, list[tuple[tuple[str, ...], list[float]]]] = {}
        for (name, labels), numbers in sorted(self._counters.sums().items()):
            by_family.setdefault(name, []).append((labels, numbers))
        for family in FAMILIES:
            yield _metric(family, by_family.get(family.name, []))
        yield from _of_processes(self._counters.pids)


def _metric(family: Family, series: list[tuple[tuple[str, ...], list[float]]]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.about, labels=family.labels)
        bounds = [*map(floatToGoString, family.bounds), "+Inf"]
        for labels, numbers in series:
            *counts, total = numbers
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    metric = _KINDS[family.kind](family.name, family.about, labels=family.labels)
    for labels, [number] in series:
        metric.add_metric(labels, number)
    return metric


def _of_processes(pids: list[int]) -> Iterable[Metric]:
    """Memory, CPU and files of all processes together, under prometheus_client's names for one.

    Without the CPU time of several: it would fall when one of them is replaced.
    """
    found: dict[str, Metric] = {}
    for pid in pids:
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            if len(pids) > 1 and metric.type == "counter":
                continue
            before = found.setdefault(metric.name, metric)
            if before is metric or not metric.samples:
                continue
            [one], [other] = before.samples, metric.samples
            add = _NOT_SUMS.get(one.name, lambda pair: sum(pair))
            before.samples = [one._replace(value=add((one.value, other.value)))]
    return found.values()
