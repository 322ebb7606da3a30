"""Development: a file that is saved is served at once, unless it cannot be loaded."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.process import ROOT, ServerProcess, StartServer
from tests.fixtures.waiting import wait_until

PACKAGES = ("conf", "db", "handlers", "server")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of the program, to be changed."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)  # with what is compiled of it
    return tmp_path


@pytest.fixture
def server(start_server: StartServer, program: Path) -> ServerProcess:
    """A server of that copy, at a port that is the same after a new start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    environ = {"ENVIRONMENT": "development", "PYTHONPATH": str(program), "AUTORELOAD": "true"}
    return start_server("--port", port, "--grace-s", "0", environ=environ, url="sqlite://")


def alive(server: ServerProcess) -> str:
    """What ``/livez`` says; nothing while it is not served."""
    try:
        return str(server.request("GET", "/livez").body["status"])
    except OSError:
        return ""


def says(server: ServerProcess, word: str) -> Callable[[], bool]:
    return lambda: alive(server) == word


def logs(server: ServerProcess, message: str) -> Callable[[], bool]:
    return lambda: message in server.err


def test_a_change_is_served(server: ServerProcess, program: Path):
    """By the same process, begun anew."""
    pid = server.pid
    file = program / "handlers" / "ops.py"

    file.write_text(file.read_text().replace('"alive"', '"changed"'))

    assert wait_until(says(server, "changed"), timeout_s=30), server.err
    assert server.pid == pid
    assert server.runs()
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


FAULTS = {
    "def broken(:\n": "SyntaxError",
    "no_such_name\n": "NameError",
    "import no_such\n": "No module named",
}


@pytest.mark.slow
def test_code_that_cannot_be_loaded_is_told_and_the_old_serves_until_it_is_mended(
    server: ServerProcess, program: Path
):
    file = program / "handlers" / "ops.py"
    good = file.read_text()

    for fault, message in FAULTS.items():
        file.write_text(good + fault)

        assert wait_until(logs(server, message), timeout_s=30), server.err
        assert str(file) in server.err
        time.sleep(1.0)
        assert alive(server) == "alive"

    file.write_text(good.replace('"alive"', '"mended"'))

    assert wait_until(says(server, "mended"), timeout_s=30), server.err


@pytest.mark.slow
def test_a_new_file_that_is_broken_is_looked_at_again(server: ServerProcess, program: Path):
    """The running program does not know it yet."""
    new, file = program / "handlers" / "new.py", program / "handlers" / "ops.py"
    new.write_text("broken(\n")
    file.write_text(f"import handlers.new as new\n{file.read_text()}".replace('"alive"', "new.WORD"))
    file.write_text(
        file.read_text()
        .replace("import handlers.new as new\n", "", 1)
        .replace("from db import Database\n", "import handlers.new as new\nfrom db import Database\n")
    )
    assert wait_until(lambda: "SyntaxError" in server.err, timeout_s=30), server.err

    new.write_text("WORD = 'new'\n")

    assert wait_until(says(server, "new"), timeout_s=30), server.err


@pytest.mark.slow
def test_a_file_that_an_editor_replaces_is_one_change(server: ServerProcess, program: Path):
    """Written beside it and renamed, with a moment in which there is none."""
    file = program / "handlers" / "ops.py"
    text = file.read_text().replace('"alive"', '"replaced"')
    file.unlink()
    time.sleep(1.0)
    beside = program / "handlers" / ".ops.py.swp"
    beside.write_text(text)
    os.replace(beside, file)

    assert wait_until(says(server, "replaced"), timeout_s=30), server.err
