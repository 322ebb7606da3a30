"""The examples as a reader starts them: ``python -m``, on a database and a port."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.server import Client
from tests.fixtures.waiting import wait_until
from tests.fixtures.warm import OWN_ENVIRON, WarmProcess, WarmPython

StartExample = Callable[..., Client]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start_example(database_url: str, tmp_path: Path, warm_python: WarmPython) -> Iterator[StartExample]:
    """``start_example("notes")``: the module runs on the test's database, or on ``url``; gives a client.

    Ended by Ctrl-C.
    """
    started: list[tuple[WarmProcess, Client]] = []

    def start(name: str, *, url: str = database_url) -> Client:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = warm_python.start(
                f"tests.examples.{name}",
                [url, str(port)],
                environ={"PATH": os.environ.get("PATH", os.defpath), **OWN_ENVIRON},
                cwd=tmp_path,
                out=log,
                err=log,
            )
        client = Client(port)
        started.append((process, client))
        ready = wait_until(lambda: _listens(port) or process.poll() is not None, timeout_s=20)
        assert ready, f"{name} does not listen"
        assert process.poll() is None, (tmp_path / f"{name}.log").read_text()
        return client

    yield start
    for process, client in started:
        client.close()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 0, "Ctrl-C is no failure"
        finally:
            process.kill()
            process.wait(10)
