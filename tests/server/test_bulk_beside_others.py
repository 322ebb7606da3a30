"""A bulk of ten thousand on PostgreSQL while others work: how long the event loop stands still."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from tests.fixtures.process import ServerProcess, StartServer, exchange

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", ["postgresql"], indirect=True)]

TASK: dict[str, Any] = {
    "bundle": "store",
    "granularity": "daily",
    "target_date": "2020-04-01",
    "change_id": 3,
    "s3_keys": {"input": "qa/store/daily/2020-04-01/input.parquet"},
}
BULKS = 5
P99_MAX_S = 0.3
"""The goal is 0.1 s. Wider here: client, server and PostgreSQL may have to share two cores with others."""


def others(server: ServerProcess, done: threading.Event, failed: list[object]) -> None:
    """Somebody who reads and writes a task at a time."""
    with closing(server.connect()) as connection:
        while not done.is_set():
            made = exchange(connection, "POST", "/tasks", TASK)
            read = exchange(connection, "GET", "/tasks?limit=20")
            if (made.status, read.status) != (201, 200):
                failed.append((made, read))
            time.sleep(0.01)


def send_bulks(server: ServerProcess, done: threading.Event, statuses: list[int]) -> None:
    """One bulk after the other; at the end everybody else may go home."""
    body = json.dumps({"items": [TASK] * 10_000}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with closing(server.connect()) as connection:
            for _ in range(BULKS):
                connection.request("POST", "/tasks/bulk", body, headers)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
    finally:
        done.set()


def test_who_asks_whether_it_lives_is_answered_soon(database_url: str, start_server: StartServer):
    server = start_server(url=database_url)
    done = threading.Event()
    statuses: list[int] = []
    failed: list[object] = []
    threads = [threading.Thread(target=others, args=(server, done, failed)) for _ in range(3)]
    threads.append(threading.Thread(target=send_bulks, args=(server, done, statuses)))
    took_s: list[float] = []

    for thread in threads:
        thread.start()
    with closing(server.connect()) as connection:
        while not done.is_set():
            began = time.monotonic()
            assert exchange(connection, "GET", "/livez").status == 200
            took_s.append(time.monotonic() - began)
            time.sleep(0.005)
    for thread in threads:
        thread.join()

    took_s.sort()
    p50_s, p99_s = took_s[len(took_s) // 2], took_s[int(len(took_s) * 0.99)]
    print(
        f"/livez beside {BULKS} bulks: {len(took_s)} asked, p50 {p50_s * 1000:.1f} ms, "
        f"p99 {p99_s * 1000:.1f} ms, longest {took_s[-1] * 1000:.1f} ms"
    )
    assert statuses == [201] * BULKS
    assert failed == []
    assert len(took_s) > 100
    assert p99_s < P99_MAX_S
