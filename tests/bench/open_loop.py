"""An open loop: requests come at their own moments, whether or not those before them are answered.

Over many connections that are kept alive, each with one request under way, by the one thread of `load`.
"""

from __future__ import annotations

import gc
import itertools
import random
import select
import time
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.bench.load import Incoming, Load, LoadError

TIMEOUT_S = 60.0
_READ_BYTES = 1 << 16


class Offered(NamedTuple):
    """What became of the requests that were counted."""

    seconds: float
    """From the first of them to the last."""

    latencies_s: dict[int, list[float]]
    """By status, each from the request's own moment."""

    in_time: dict[int, int]
    """By status, how many answers came within those seconds, to whichever requests."""

    answers: dict[int, int]
    """By status, how many came in all, those to uncounted requests among them."""

    cpu_s: float
    """What the thread that sends used within them."""

    under_way_max: int
    """How many requests were under way at most."""

    late_ms: float
    """The p99 of how much later a request was sent than its moment."""


def moments(number: int, rate: float) -> list[float]:
    """When so many requests come, in seconds: a Poisson process, the same each time."""
    chance = random.Random(number)
    return list(itertools.accumulate(chance.expovariate(rate) for _ in range(number)))


def offer(
    load: Load,
    requests: Sequence[bytes],
    *,
    rate: float,
    lead: int,
    statuses: Sequence[int],
    look: Callable[[], None],
) -> Offered:
    """Send requests, so many a second on average.

    A request for which no connection is free goes over the first that is; its latency counts from its moment
    all the same.

    Args:
        lead: how many of them, at the beginning, are not counted.
        statuses: that an answer may have.
        look: called at the moment of the first that counts, and at that of the last.

    Raises:
        LoadError: an answer has another status, or does not come.
    """
    due_s = moments(len(requests), rate)
    latencies_s: dict[int, list[float]] = {status: [] for status in statuses}
    in_time, answers = dict.fromkeys(statuses, 0), dict.fromkeys(statuses, 0)
    late_s = array("d")
    sockets = load.sockets
    free, under_way = list(sockets), dict[int, int]()
    incoming = {number: Incoming(keep=False) for number in sockets}
    at = under_way_max = 0
    cpu_s = began_s = ended_s = 0.0
    poll = select.epoll()
    gc.collect()
    gc.disable()
    try:
        for number, one in sockets.items():
            poll.register(number, select.EPOLLIN)
            one.setblocking(False)  # with a time-out, each call would ask the kernel twice
        clock, started = time.perf_counter, time.perf_counter()
        while at < len(due_s) or under_way or not ended_s:
            now_s = clock() - started
            if not began_s and now_s >= due_s[lead]:
                began_s, cpu_s = now_s, time.thread_time()
                look()
            while at < len(due_s) and due_s[at] <= now_s and free:
                number = free.pop()
                sockets[number].send(requests[at])
                under_way[number] = at
                if at >= lead:
                    late_s.append(now_s - due_s[at])
                at += 1
            if not ended_s and now_s >= due_s[-1] and now_s > began_s:  # all may be late at once
                ended_s, cpu_s = now_s, time.thread_time() - cpu_s
                look()
            under_way_max = max(under_way_max, len(under_way))
            patience_s = max(0.0, due_s[at] - now_s) if at < len(due_s) and free else TIMEOUT_S
            ready = poll.poll(patience_s) if under_way or at < len(due_s) else []
            now_s = clock() - started
            if not ready and under_way and patience_s == TIMEOUT_S:
                raise LoadError(f"{len(under_way)} requests were not answered in {TIMEOUT_S:g} s")
            for number, _ in ready:
                answer = incoming[number]
                if not answer.add(sockets[number].recv(_READ_BYTES)):
                    continue
                status = int(answer.content[9:12])
                if status not in in_time:
                    raise LoadError(
                        f"not one of {statuses} but {answer.content[9:500].decode(errors='replace')}"
                    )
                answer.clear()
                of = under_way.pop(number)
                free.append(number)
                answers[status] += 1
                if of >= lead:
                    latencies_s[status].append(now_s - due_s[of])
                if began_s and not ended_s:
                    in_time[status] += 1
        late = sorted(late_s)[int(0.99 * len(late_s))] * 1000
        return Offered(ended_s - began_s, latencies_s, in_time, answers, cpu_s, under_way_max, late)
    finally:
        gc.enable()
        poll.close()
