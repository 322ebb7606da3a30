"""An open loop sends at its own moments, and counts from them."""

from __future__ import annotations

import itertools
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bench.goodput import ideal
from tests.bench.load import Load, LoadError, request
from tests.bench.open_loop import moments, offer

SERVED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def answering(*answers: bytes, after_s: float, connections: int) -> Iterator[int]:
    """The port of a server that answers each connection's requests in turn, each after a while."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(one: socket.socket) -> None:
            with one:
                turn = 0
                while one.recv(65536):
                    time.sleep(after_s)
                    one.sendall(answers[turn % len(answers)])
                    turn += 1

        def accept() -> None:
            for _ in range(connections):
                threads.append(threading.Thread(target=serve, args=[listening.accept()[0]]))
                threads[-1].start()

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield listening.getsockname()[1]
        finally:
            for thread in threads:
                thread.join()


def test_requests_do_not_wait_for_the_answers_to_those_before():
    """Forty in about 0.2 s, each of which is answered after 0.3 s."""
    looks: list[float] = []
    with answering(SERVED, after_s=0.3, connections=40) as port, Load(port, 40) as load:
        found = offer(
            load,
            [request("GET", "/")] * 40,
            rate=200,
            lead=10,
            statuses=(200,),
            look=lambda: looks.append(time.perf_counter()),
        )

    assert found.under_way_max > 20
    assert found.answers == {200: 40}
    assert len(found.latencies_s[200]) == 30
    assert min(found.latencies_s[200]) >= 0.3
    assert looks[1] - looks[0] == pytest.approx(found.seconds, abs=0.05)


def test_a_request_without_a_free_connection_counts_from_its_own_moment():
    with answering(SERVED, REFUSED, after_s=0.1, connections=1) as port, Load(port, 1) as load:
        found = offer(
            load, [request("GET", "/")] * 4, rate=1000, lead=1, statuses=(200, 503), look=lambda: None
        )

    assert found.answers == {200: 2, 503: 2}
    assert max(found.latencies_s[503]) > 0.35
    assert found.late_ms > 200


def test_where_all_of_them_are_late_at_once_some_time_passes_between_the_first_and_the_last():
    """As on a machine that stands still for longer than the whole of it takes."""
    with answering(SERVED, after_s=0.0, connections=10) as port, Load(port, 10) as load:
        found = offer(load, [request("GET", "/")] * 10, rate=1e9, lead=2, statuses=(200,), look=lambda: None)

    assert found.seconds > 0
    assert found.answers == {200: 10}


def test_another_status_ends_it():
    with (
        answering(REFUSED, after_s=0, connections=1) as port,
        Load(port, 1) as load,
        pytest.raises(LoadError, match=r"not one of \(200,\) but 503"),
    ):
        offer(load, [request("GET", "/")] * 2, rate=1000, lead=0, statuses=(200,), look=lambda: None)


def test_the_moments_are_a_poisson_process_and_the_same_each_time():
    made = moments(20_000, 500.0)
    gaps = [after - before for before, after in itertools.pairwise(made)]

    assert moments(20_000, 500.0) == made
    assert made[-1] == pytest.approx(40, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


@pytest.mark.parametrize(
    ("offered", "refused_s", "available", "expected"),
    [
        (3_000, 0.0001, 1.0, (1 - 0.3) / 0.0003),
        (1_000, 0.0001, 1.0, 1_000),  # all can be served
        (3_000, 0.0001, 0.5, (0.5 - 0.3) / 0.0003),
        (3_000, 0.0005, 1.0, 2_500),  # a refusal that costs more saves nothing
    ],
)
def test_the_ideal_is_what_refusals_leave(
    offered: float, refused_s: float, available: float, expected: float
):
    found = ideal(offered, accepted_s=0.0004, refused_s=refused_s, available=available)

    assert found == pytest.approx(expected)


def test_where_refusals_alone_take_more_nothing_is_left():
    assert ideal(12_000, accepted_s=0.0004, refused_s=0.0001, available=1.0) < 0
