"""The load measures what it says, and a wrong answer ends a run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bench.load import Load, LoadError, request

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
FAULT = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def answering(*parts: bytes) -> Iterator[int]:
    """The port of a server that answers each request with these bytes, a piece at a time, then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as one:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in parts:
                    if part.startswith(b"HTTP/"):
                        one.recv(65536)
                    one.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("answer", "status", "body"), [(PLAIN, 200, b"abcde"), (CHUNKED, 200, b"abcde"), (EMPTY, 204, b"")]
)
def test_an_answer_is_read_to_its_end_in_whatever_pieces_it_comes(answer: bytes, status: int, body: bytes):
    with answering(answer[:20], answer[20:-3], answer[-3:]) as port, Load(port, 1) as load:
        found = load.ask(request("GET", "/"))

    assert (found.status, found.body) == (status, body)


def test_a_run_sends_all_requests_and_times_each():
    with answering(PLAIN, CHUNKED, PLAIN) as port, Load(port, 1) as load:
        taken = load.run(iter([request("GET", "/")] * 3), status=200)

    assert len(taken.latencies_s) == 3
    assert 0 < taken.percentile_ms(0.5) <= taken.percentile_ms(0.99) <= taken.seconds * 1000


@pytest.mark.parametrize("answer", [FAULT, PLAIN[:-1]])
def test_a_wrong_status_or_half_an_answer_ends_the_run(answer: bytes):
    with answering(PLAIN, answer) as port, Load(port, 1) as load, pytest.raises(LoadError):
        load.run(iter([request("GET", "/")] * 2), status=200)
