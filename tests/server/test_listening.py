"""The sockets that a server listens to, where it has no descriptor left."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from pathlib import Path

import psutil

from tests.fixtures.databases import RawSql
from tests.fixtures.process import StartServer
from tests.fixtures.service import create_shelves
from tests.fixtures.waiting import wait_until

DESCRIPTORS = 40
CLIENTS = 60


def test_a_process_without_descriptors_waits_for_one_and_serves_those_that_are_there(
    start_server: StartServer, tmp_path: Path
):
    """No connection is refused, no core is burnt, and the log has one line for all of it."""
    url = f"sqlite:///{tmp_path / 'shelves.db'}"
    create_shelves(RawSql(url))
    server = start_server("--port", "0", url=url, warm=False)
    process = psutil.Process(server.pid)
    assert server.request("GET", "/shelves").status == 200
    _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, most))

    with contextlib.ExitStack() as clients:
        first, *others, last = [
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            for _ in range(CLIENTS)
        ]
        assert wait_until(lambda: process.num_fds() == DESCRIPTORS)
        began_s = sum(process.cpu_times()[:2])
        time.sleep(1.5)
        burnt_s = sum(process.cpu_times()[:2]) - began_s
        first.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert first.recv(12) == b"HTTP/1.1 200"
        last.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        for each in others:
            each.close()
        assert last.recv(12) == b"HTTP/1.1 200"

    assert burnt_s < 0.5
    assert server.err.count("no connection can be accepted (Too many open files)") == 1
    assert "Traceback" not in server.err
    assert server.request("GET", "/shelves").status == 200
