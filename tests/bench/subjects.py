"""What is measured: servers, each in a process of its own on a database of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.bench.environments import python_of
from tests.bench.service import serving
from tests.fixtures.postgres import free_port
from tests.fixtures.process import ROOT
from tests.fixtures.waiting import wait_until

START_TIMEOUT_S = 30.0

DRIVERS = {"psycopg2": "psycopg2", "asyncpg": "asyncpg", "psycopg": "psycopg"}
"""SQLAlchemy's names of the drivers that the service may have, and the modules that have to be there."""


class Subject(NamedTuple):
    """One of those that are compared. A constant."""

    name: str
    label: str
    is_ours: bool = False
    has_orm: bool = True
    environment: str = ""
    """Of its own; none is the one that this runs in."""

    command: tuple[str, ...] = ()
    """Behind that environment's Python; ``{port}`` is filled in."""

    variables: tuple[tuple[str, str], ...] = ()
    refuses: bool = True
    """Whether mistakes are answered right."""

    lacks: tuple[str, ...] = ()
    """Calls that it does not have."""


def ours(driver: str, **variables: str) -> Subject:
    """The service on a driver, as it is installed."""
    variables = {"DRIVER": driver, **variables}
    return Subject(
        f"onfinish {driver}", f"onfinish, {driver}", is_ours=True, variables=tuple(variables.items())
    )


def bare(driver: str) -> Subject:
    """A bare Tornado handler with the service's own SQL and session calls, on the same driver."""
    return Subject(
        f"bare {driver}",
        f"bare Tornado handler, {driver}",
        has_orm=False,
        command=("-m", "tests.bench.bare"),
        variables=(("DRIVER", driver),),
        refuses=False,
        lacks=("export",),
    )


PEERS = {
    subject.name: subject
    for subject in (
        Subject(
            "fastapi",
            "FastAPI + AsyncSession + asyncpg",
            environment="fastapi",
            command=("-m", "tests.bench.peers.fastapi_app"),
        ),
        Subject(
            "litestar",
            "Litestar + advanced-alchemy + asyncpg",
            environment="litestar",
            command=("-m", "tests.bench.peers.litestar_app"),
            lacks=("export",),
        ),
        Subject(
            "tornado-sqlalchemy",
            "tornado-sqlalchemy 0.8",
            environment="tornado-sqlalchemy",
            command=("-m", "tests.bench.peers.tornado_sqlalchemy_app"),
        ),
        Subject(
            "flask",
            "Flask-SQLAlchemy, gunicorn threads",
            environment="flask",
            command=(
                *("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--threads", "16"),
                *("--keep-alive", "600", "--log-level", "warning", "tests.bench.peers.flask_app:app"),
            ),
        ),
        Subject(
            "psycopg2",
            "Tornado + psycopg2 in threads, no ORM",
            has_orm=False,
            environment="tornado",
            command=("-m", "tests.bench.peers.psycopg2_app"),
        ),
        Subject(
            "core",
            "Tornado + SQLAlchemy Core + asyncpg, no ORM",
            has_orm=False,
            environment="tornado-core",
            command=("-m", "tests.bench.peers.core_app"),
        ),
        Subject(
            "floor",
            "Tornado + asyncpg, no ORM: the floor",
            has_orm=False,
            environment="tornado",
            command=("-m", "tests.bench.peers.floor_app"),
        ),
        Subject(
            "floor-uvloop",
            "the floor on uvloop",
            has_orm=False,
            environment="tornado",
            command=("-m", "tests.bench.peers.floor_app"),
            variables=(("EVENT_LOOP", "uvloop"),),
        ),
    )
}

SQLITE_PEERS = {
    subject.name: subject
    for subject in (
        Subject(
            "fastapi-sqlite",
            "FastAPI + AsyncSession + aiosqlite",
            environment="fastapi",
            command=PEERS["fastapi"].command,
        ),
        Subject(
            "flask-sqlite",
            "Flask-SQLAlchemy, gunicorn threads, SQLite",
            environment="flask",
            command=PEERS["flask"].command,
        ),
    )
}
"""The same applications on SQLite."""

BARE_SQLITE = Subject(
    "bare sqlite",
    "bare Tornado handler, SQLite",
    command=("-m", "tests.bench.bare"),
    refuses=False,
)


def installed_drivers() -> list[str]:
    """The service's drivers whose modules are here."""
    return [name for name, module in DRIVERS.items() if importlib.util.find_spec(module)]


class Server(NamedTuple):
    """A server that runs. Lives as long as the block of `started`."""

    subject: Subject
    pid: int
    port: int
    url: str

    def cpu_s(self) -> float:
        """What its process and all its children have used so far."""
        return cpu_s(self.pid)

    def memory_mib(self) -> float:
        """What they hold."""
        return sum(process.memory_info().rss for process in family(self.pid)) / 2**20


def cpu_s(pid: int) -> float:
    """What a process and all its children have used so far, in nanoseconds' precision.

    psutil's own numbers, as /proc's, are ticks of ten milliseconds.
    """
    # The kernel's clock of a process: https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
    return sum(time.clock_gettime((~process.pid << 3) | 2) for process in family(pid))


def family(pid: int) -> list[psutil.Process]:
    """A process and all its children."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@contextlib.contextmanager
def started(subject: Subject, url: str, *, environments: Path) -> Iterator[Server]:
    """Start a server on a database; it is killed at the end of the block."""
    variables = dict(subject.variables)
    if "DRIVER" in variables:
        url_here = url.replace("postgresql://", f"postgresql+{variables.pop('DRIVER')}://", 1)
    else:
        url_here = url
    if subject.is_ours:
        with contextlib.ExitStack() as stack:
            try:
                own = stack.enter_context(serving(url_here, **variables))
            except AssertionError as error:
                raise RuntimeError(f"{subject.label} did not start: {error}") from error
            yield Server(subject, own.pid, own.port, url)
        return
    with spawned(subject, url_here, environments=environments) as (process, port):

        def listens() -> bool:
            if process.poll() is not None:
                return True
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return True
            return False

        if not wait_until(listens, timeout_s=START_TIMEOUT_S) or process.poll() is not None:
            raise RuntimeError(f"{subject.label} did not start")
        yield Server(subject, process.pid, port, url)


@contextlib.contextmanager
def spawned(
    subject: Subject, url: str, *, environments: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process by a subject's command, just begun, and the port that it is to listen on; killed at the end.

    Where the block raises, what the process has logged goes to standard error.
    """
    python = python_of(subject.environment, environments) if subject.environment else sys.executable
    port = free_port()
    command = [str(python), *(part.format(port=port) for part in subject.command)]
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        **dict(subject.variables),
        "DATABASE_URL": url,
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield process, port
        except BaseException:
            print(log.read_text(), file=sys.stderr)  # which may say why
            raise
        finally:
            for one in family(process.pid) if process.poll() is None else []:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()
