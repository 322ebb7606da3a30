"""An export of a million tasks on PostgreSQL: what it costs the server's memory, and how it breaks."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures.board.large import ROWS
from tests.fixtures.databases import RawSql
from tests.fixtures.process import ServerProcess, StartServer

pytestmark = pytest.mark.slow

GROWTH_MAX_MIB = 30
LAST_CHUNK = b"\r\n0\r\n\r\n"
_TASK = b'"update_time"'
REQUEST = b"GET /tasks/export HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
SLOW_FOR_S = 12.0


class Memory:
    """Watches the resident memory of a process, twenty times a second, between `start` and `stop`."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before_mib = self.now_mib()
        self.most_mib = self.before_mib
        self._thread.start()

    @property
    def growth_mib(self) -> float:
        """How much more there was at the worst moment than before."""
        return self.most_mib - self.before_mib

    def now_mib(self) -> float:
        """VmRSS, which includes what is shared."""
        [line] = [line for line in self._status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def stop(self) -> None:
        """Watch no more."""
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.05):
            self.most_mib = max(self.most_mib, self.now_mib())


@pytest.fixture
def server(large_url: str, start_server: StartServer) -> ServerProcess:
    """Has answered a little already, so that what is made once is made."""
    server = start_server(url=large_url)
    assert server.request("GET", "/tasks?limit=1000").status == 200
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as client:
        client.sendall(REQUEST)
        assert sum(map(len, itertools.islice(received(client), 20))) > 0
    return server


@pytest.fixture
def memory(server: ServerProcess) -> Iterator[Memory]:
    """Watches while the test runs."""
    memory = Memory(server.pid)
    yield memory
    memory.stop()


def received(client: socket.socket) -> Iterator[bytes]:
    """What arrives, until the other side ends."""
    while chunk := client.recv(256 * 1024):
        yield chunk


def read_to_the_end(client: socket.socket) -> tuple[int, bytes]:
    """Read all that comes: how many tasks it had, and its last bytes."""
    lines, end = 0, b""
    for chunk in received(client):
        piece = end + chunk
        lines += piece.count(_TASK) - end.count(_TASK)
        end = piece[-len(_TASK) :]
    return lines, end


def test_a_million_tasks_leave_in_flat_memory(server: ServerProcess, memory: Memory):
    """All of them, to a client that reads as fast as it can."""
    began = time.monotonic()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as client:
        client.sendall(REQUEST)
        lines, end = read_to_the_end(client)
    took_s = time.monotonic() - began

    print(f"export: {lines:,} tasks in {took_s:.1f} s, memory grew by {memory.growth_mib:.1f} MiB")
    assert lines == ROWS
    assert end.endswith(LAST_CHUNK)
    assert memory.growth_mib < GROWTH_MAX_MIB


def test_a_backend_killed_midway_breaks_the_transfer(server: ServerProcess, large_url: str):
    """A client is not left to take half of it for all."""
    sql = RawSql(large_url)
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as client:
        client.sendall(REQUEST)
        client.recv(1000)
        killed = sql(
            "SELECT pg_terminate_backend(pid) AS gone FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        lines, end = read_to_the_end(client)

    assert {"gone": True} in killed
    assert 0 < lines < ROWS
    assert not end.endswith(LAST_CHUNK)
    assert server.request("GET", "/tasks?limit=1").status == 200


def test_a_slow_client_costs_time_and_no_memory(server: ServerProcess, memory: Memory):
    """What it has not read is not read from the database either."""
    read = 0
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(REQUEST)
        give_up_at = time.monotonic() + SLOW_FOR_S
        while time.monotonic() < give_up_at:
            read += len(client.recv(32 * 1024))
            time.sleep(0.02)

    told = f"{read / 2**20:.0f} MiB in {SLOW_FOR_S:g} s, memory grew by {memory.growth_mib:.1f} MiB"
    print(f"slow export: {told}", flush=True)
    assert 1 < read / 2**20 < 150  # a part of it
    assert memory.growth_mib < GROWTH_MAX_MIB
    assert server.request("GET", "/livez").status == 200
