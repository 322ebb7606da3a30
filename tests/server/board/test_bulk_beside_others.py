"""A bulk of ten thousand on PostgreSQL while others work: how long another request waits for its answer."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.backends import GREENLETS
from tests.fixtures.process import ServerProcess, StartServer, exchange

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", ["postgresql", *GREENLETS], indirect=True)]

TASK: dict[str, Any] = {
    "bundle": "store",
    "granularity": "daily",
    "target_date": "2020-04-01",
    "change_id": 3,
    "s3_keys": {"input": "qa/store/daily/2020-04-01/input.parquet"},
}
BULKS = 5
OTHERS = 3
P99_MAX_S = 0.2
"""The goal is 0.1 s, with what the loop's thread stood in a core's queue taken off. Twice that here: a bulk's
thread may have to stand there too, with the GIL in hand."""


def kept_waiting_s(task: str) -> float:
    """How long a thread has stood ready to run while others had the CPU.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    return int(Path(f"/proc/{task}/schedstat").read_text().split()[1]) / 1e9


def work(server: ServerProcess, done: threading.Event, failed: list[object]) -> None:
    """Write a task and read some, again and again."""
    with closing(server.connect()) as connection:
        while not done.wait(0.01):
            made = exchange(connection, "POST", "/tasks", TASK)
            read = exchange(connection, "GET", "/tasks?limit=20")
            if (made.status, read.status) != (201, 200):
                failed.append((made, read))


def send_bulks(server: ServerProcess, done: threading.Event, statuses: list[int]) -> None:
    """One bulk after the other; at the end the other clients stop."""
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


def test_the_liveness_probe_is_answered_soon(database_url: str, start_server: StartServer):
    server = start_server(url=database_url)
    loop, client = f"{server.pid}/task/{server.pid}", "thread-self"
    done = threading.Event()
    statuses: list[int] = []
    failed: list[object] = []
    threads = [threading.Thread(target=work, args=(server, done, failed)) for _ in range(OTHERS)]
    threads.append(threading.Thread(target=send_bulks, args=(server, done, statuses)))
    on_the_wall_s: list[float] = []
    took_s: list[float] = []

    for thread in threads:
        thread.start()
    with closing(server.connect()) as connection:
        while not done.wait(0.005):
            waited_s, began = kept_waiting_s(loop) + kept_waiting_s(client), time.monotonic()
            assert exchange(connection, "GET", "/livez").status == 200
            on_the_wall_s.append(time.monotonic() - began)
            took_s.append(on_the_wall_s[-1] - (kept_waiting_s(loop) + kept_waiting_s(client) - waited_s))
    for thread in threads:
        thread.join()

    for name, seconds in (("on the wall", on_the_wall_s), ("by itself", took_s)):
        seconds.sort()
        told = [f"{seconds[int(len(seconds) * part)] * 1000:.1f}" for part in (0.5, 0.99)]
        told.append(f"{sum(seconds) / len(seconds) * 1000:.2f}")
        print(f"/livez beside {BULKS} bulks, {name}: {len(seconds)} asked, p50, p99 and mean {told} ms")
    assert statuses == [201] * BULKS
    assert failed == []
    assert len(took_s) > 50
    assert took_s[int(len(took_s) * 0.99)] < P99_MAX_S
