"""A log that is read slowly, or not at all: the service goes on, and says what it could not log."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psutil
import pytest

from tests.fixtures.process import ServerProcess, StartServer, exchange, seconds
from tests.fixtures.waiting import wait_until

PIPE_BYTES = 4096
"""The least that the kernel gives a pipe; some forty access lines."""

Ends = Iterator[tuple[int, int]]


@pytest.fixture(params=["pipe", pytest.param("socket", marks=pytest.mark.slow)])
def log_ends(request: pytest.FixtureRequest) -> Ends:
    """Where a log is read, and where it is written: a container's or a shell's pipe, and systemd's socket."""
    if request.param == "pipe":
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    else:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)
        reading, writing = ours.detach(), theirs.detach()
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


class Reader:
    """Reads a log, from when it is told to, as far as it has come."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self.text = ""

    def has(self, pattern: str) -> Callable[[], bool]:
        """Whether the log, read on, has something."""

        def read_on() -> bool:
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(self._fd, 65536):
                    self.text += piece.decode()
            return re.search(pattern, self.text) is not None

        return read_on


def ask_often(server: ServerProcess, times: int) -> None:
    """As many requests, over a few connections, each of which has to be answered."""
    for _ in range(4):
        with contextlib.closing(server.connect()) as connection:
            for _ in range(times // 4):
                connection.timeout = 10
                assert exchange(connection, "GET", "/livez").status == 200


def logged_and_lost(text: str) -> int:
    """How many requests the log tells of, those that it counts as lost among them."""
    lost = sum(map(int, re.findall(r"(\d+) records were not logged", text)))
    return len(re.findall("200 GET /livez", text)) + lost


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_log_that_is_not_read_stops_no_request_and_its_gap_is_told(
    start_server: StartServer, log_ends: tuple[int, int], processes: int, tmp_path: Any
):
    """Each line is there or counted, none is torn, and the count stands where they are missing."""
    reading, writing = log_ends
    server = start_server(
        *("--grace-s", "0", "--lag-s", "none", "--processes", str(processes)),
        url=f"sqlite:///{tmp_path / 'x.db'}",
        popen={"stderr": writing},
    )
    reader = Reader(reading)
    asked = 0
    while asked < 4000 * processes:  # some 90 bytes each
        ask_often(server, 4000)
        asked += 4000

    assert wait_until(reader.has(r"\d+ records were not logged"), timeout_s=20)
    ask_often(server, 4)
    # The end waits for the log for a moment only: so it is read before.
    assert wait_until(lambda: reader.has("")() and logged_and_lost(reader.text) == asked + 4, timeout_s=60)
    server.send_signal(signal.SIGTERM)
    assert wait_until(reader.has("stopped|all processes have ended"), timeout_s=20)
    assert server.wait() == 0
    reader.has("")()
    assert logged_and_lost(reader.text) == asked + 4
    odd = [line for line in reader.text.splitlines() if not re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line)]
    assert odd == []


def test_a_process_with_a_log_that_is_not_read_ends_in_time(start_server, log_ends, tmp_path):
    """What is still to be written is waited for a moment only."""
    _, writing = log_ends
    server = start_server("--grace-s", "0", url="sqlite://", popen={"stderr": writing})
    ask_often(server, 2000)

    server.send_signal(signal.SIGTERM)

    assert seconds(server.wait) < 10
    assert server.wait() == 0


@pytest.mark.slow
def test_processes_are_replaced_while_the_log_is_not_read(start_server, log_ends, tmp_path):
    """Their parent logs too, and has no other thread than the one that looks after them."""
    _, writing = log_ends
    server = start_server(
        *("--grace-s", "0", "--processes", "2"),
        url=f"sqlite:///{tmp_path / 'x.db'}",
        popen={"stderr": writing},
    )
    ask_often(server, 2000)
    parent = psutil.Process(server.pid)
    before = pids(parent)

    for victim in before:
        os.kill(victim, signal.SIGKILL)
        assert wait_until(partial(replaced, parent, victim), timeout_s=10)

    assert not before & pids(parent)
    assert server.request("GET", "/livez").status == 200
    time.sleep(0.1)
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def replaced(parent: psutil.Process, victim: int) -> bool:
    """Whether another process is there in its place."""
    return victim not in pids(parent) and len(pids(parent)) == 2


def pids(parent: psutil.Process) -> set[int]:
    """The processes that serve."""
    return {child.pid for child in parent.children()}
