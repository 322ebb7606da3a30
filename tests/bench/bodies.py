"""Large bodies and answers: what a request adds to the longest wait of others, in alternating rounds.

::

    python -m tests.bench bodies --rounds 5 --drivers psycopg2,asyncpg --json bodies.json

Each driver has a server of its own, which works at the same load all the time: two connections that write
a task and read a page, with pauses. ``/livez`` is asked over one more, again and again. In each round every
body is posted for a while, after as long a time without it; the result is the difference of the two longest
waits. The bodies that are refused are the worst that are known. ``full`` and ``fullest`` are accepted: 10,000
tasks of 280 bytes, and of as many as 8 MiB have room for. ``page``, ``claim`` and ``export`` have large
answers: of a thousand tasks with the largest ``s3_keys`` a page of 1,000 is read, a hundred are claimed, and
all are exported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import update

import db.schema.migrate
from conf import DatabaseSettings
from db import Database
from db.board.tasks import QUEUED, Task
from tests.bench.load import Load, request
from tests.bench.many import Memory
from tests.bench.rounds import Spread
from tests.bench.rows import NEW
from tests.bench.service import new_database, postgresql, serving
from tests.bench.subjects import Server, Subject
from tests.fixtures.mariadb import PROGRAM, MariaDbServer

DRIVERS = {
    "psycopg2": "psycopg2",
    "asyncpg": "asyncpg",
    "psycopg": "psycopg",
    "sqlite": "sqlite3",
    "aiosqlite": "aiosqlite",
    "pymysql": "pymysql",
}
"""The drivers, and the modules that have to be there; pymysql needs Debian's mariadb-server-core too."""

GOAL_MS = 100.0
BODY_BYTES_MAX = 8 * 2**20
ROUND_S = 1.5
_PAUSE_S = 0.01
_LOOK_EVERY_S = 0.001

BULK, ONE = "/tasks/bulk", "/tasks"


def _filled(start: bytes, item: bytes, end: bytes, number: int | None = None) -> bytes:
    """A body of as many items as there is room for, or of so many."""
    room = (BODY_BYTES_MAX - len(start) - len(end) + 1) // (len(item) + 1)
    return start + b",".join([item] * (room if number is None else number)) + end


def _task(number: int, size: int) -> bytes:
    keys: dict[str, Any] = {"path": "qa/store/daily", "parts": [1, 2, 3]}
    task = {**NEW, "change_id": number, "s3_keys": keys}
    keys["note"] = "x" * max(0, size - len(_compact(task)) - len(',"note":""'))
    return _compact(task)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tasks(size: int) -> bytes:
    return b'{"items":[' + b",".join(_task(number, size) for number in range(10_000)) + b"]}"


def _fields(number: int, name: str = "x") -> bytes:
    return b",".join(b'"%b%d":1' % (name.encode(), at) for at in range(number))


BODIES: dict[str, tuple[str, Callable[[], bytes], range]] = {
    "ints": (ONE, lambda: _filled(b'{"bundle":[', b"1", b"]}"), range(400, 500)),
    "lists": (ONE, lambda: _filled(b'{"bundle":[', b"[]", b"]}"), range(400, 500)),
    "lists in a bulk": (BULK, lambda: _filled(b'{"items":[', b"[]", b"]}"), range(400, 500)),
    "one item of 700,000 fields": (
        BULK,
        lambda: b'{"items":[{' + _fields(700_000, "") + b"}]}",
        range(400, 500),
    ),
    "7,000 items of 90 unknown fields": (
        BULK,
        lambda: _filled(b'{"items":[', b"{" + _fields(90) + b"}", b"]}", 7_000),
        range(400, 500),
    ),
    "long numbers": (BULK, lambda: _filled(b'{"items":[', b"1" * 4_300, b"]}"), range(400, 500)),
    "strings": (BULK, lambda: _filled(b'{"items":[', b'"\\""', b"]}"), range(400, 500)),
    "full": (BULK, lambda: _tasks(280), range(201, 202)),
    "fullest": (BULK, lambda: _tasks(837), range(201, 202)),
}
"""Bodies by name: their path, what makes them, and the statuses that may answer them."""

ANSWERS = {
    "page": request("GET", "/tasks?limit=1000&bundle=large"),
    "claim": request("POST", "/tasks/claim", {"limit": 100}),
    "export": request("GET", "/tasks/export?bundle=large"),
}
"""Requests with large answers, of the tasks that `fill` adds."""

_LARGE = 1000
_LARGE_AT_ONCE = 10


def installed() -> list[str]:
    """The drivers that can be measured here."""
    found = [name for name, module in DRIVERS.items() if importlib.util.find_spec(module)]
    return [name for name in found if name != "pymysql" or Path(PROGRAM).exists()]


@contextlib.contextmanager
def started(driver: str) -> Iterator[Server]:
    """The service on a driver, with a database of its own."""
    with contextlib.ExitStack() as stack:
        if driver in ("sqlite", "aiosqlite"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = f"sqlite{'+aiosqlite' if driver == 'aiosqlite' else ''}:///{folder}/board.db"
        elif driver == "pymysql":
            mariadb = MariaDbServer()
            stack.callback(mariadb.remove)
            mariadb.start()
            url = mariadb.url_for(mariadb.create_database())
            db.schema.migrate.upgrade(DatabaseSettings(url=url))
        else:
            url = new_database(stack.enter_context(postgresql()))
            url = url.replace("postgresql://", f"postgresql+{driver}://", 1)
        variables = {"REQUEST_TIMEOUT_S": "120", "STATEMENT_TIMEOUT_S": "120"}
        if driver == "pymysql":
            variables["ENVIRONMENT"] = "testing"  # production insists on TLS
        process = stack.enter_context(serving(url, **variables))
        yield Server(Subject(driver, driver), process.pid, process.port, url)


def beside(server: Server, seconds: float, work: Callable[[], None] | None) -> dict[str, float]:
    """Ask ``/livez`` while others work, and while ``work`` is done again and again; the longest wait."""
    done = threading.Event()
    failed: list[BaseException] = []

    def again(turn: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                turn()
        except BaseException as error:  # noqa: BLE001  # told by the thread that waits for this one
            failed.append(error)
            done.set()

    def others() -> None:
        with Load(server.port, 1) as load:
            while not done.wait(_PAUSE_S):
                for content, status in _LOAD:
                    if (answer := load.ask(content)).status != status:
                        raise RuntimeError(f"a request beside was answered {answer.status}: {answer.body!r}")

    threads = [threading.Thread(target=again, args=(others,)) for _ in range(2)]
    if work is not None:
        threads.append(threading.Thread(target=again, args=(work,)))
    waits_ms: list[float] = []
    with Load(server.port, 1) as load, Memory(server) as memory:
        for thread in threads:
            thread.start()
        ends_at = time.perf_counter() + seconds
        while time.perf_counter() < ends_at and not done.wait(_LOOK_EVERY_S):
            began = time.perf_counter()
            load.ask(_LIVEZ)
            waits_ms.append((time.perf_counter() - began) * 1000)
        done.set()
        for thread in threads:  # and `/livez` goes on being asked until the last of them is answered
            while thread.is_alive():
                began = time.perf_counter()
                load.ask(_LIVEZ)
                waits_ms.append((time.perf_counter() - began) * 1000)
                time.sleep(_LOOK_EVERY_S)
            thread.join()
    if failed:
        raise RuntimeError(f"the load failed: {failed[0]}") from failed[0]
    return {"worst_ms": max(waits_ms), "grown_mib": memory.grown_mib}


_LIVEZ = request("GET", "/livez")
_LOAD = ((request("POST", "/tasks", NEW), 201), (request("GET", "/tasks?limit=20"), 200))


def poster(server: Server, name: str, content: bytes, at_once: int = 1) -> Callable[[], None]:
    """What posts a body, over so many connections at once, and looks at the answers."""
    statuses = BODIES[name][2]
    allowed = (*statuses, 503) if at_once > 1 else statuses

    def post() -> None:
        with contextlib.ExitStack() as stack:
            loads = [stack.enter_context(Load(server.port, 1)) for _ in range(at_once)]
            answers = [0] * at_once

            def ask(at: int) -> None:
                answers[at] = loads[at].ask(content).status

            threads = [threading.Thread(target=ask, args=(at,)) for at in range(at_once)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if not all(status in allowed for status in answers):
            raise RuntimeError(f"{name}: answered {answers}")

    return post


def fill(server: Server) -> None:
    """Add tasks with ``s3_keys`` of the largest size, to a board that has no others."""
    task = {**NEW, "bundle": "large", "s3_keys": {"a": [1] * 32_000}}
    bulk = request("POST", BULK, {"items": [task] * _LARGE_AT_ONCE})
    with Load(server.port, 1) as load:
        for _ in range(_LARGE // _LARGE_AT_ONCE):
            if (answer := load.ask(bulk)).status != 201:
                raise RuntimeError(f"the tasks could not be added: {answer.status}")


def free(server: Server) -> None:
    """Put the large tasks that were claimed back into the queue, of which they are the oldest."""
    database = Database(DatabaseSettings(url=server.url))
    try:
        with database.session_scope() as session:
            session.execute(update(Task).where(Task.bundle == "large").values(task_status=QUEUED))
    finally:
        database.dispose()


def reader(server: Server, name: str) -> Callable[[], None]:
    """What asks for a large answer; not by `Load.run`, whose garbage collection all threads here wait for."""

    def read() -> None:
        with Load(server.port, 1) as load:
            if (status := load.ask(ANSWERS[name]).status) != 200:
                raise RuntimeError(f"{name}: answered {status}")

    return read


def body_of(name: str) -> bytes:
    """A whole request with a body."""
    path, make, _ = BODIES[name]
    body = make()
    assert len(body) <= BODY_BYTES_MAX, (name, len(body))
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def measure(driver: str, names: Sequence[str], rounds: int, at_once: int, seconds: float) -> dict[str, Any]:
    """Measure a driver with each body."""
    found: dict[str, Any] = {}
    contents = {name: body_of(name) for name in names if name in BODIES}
    with started(driver) as server:
        works = {name: poster(server, name, content, at_once) for name, content in contents.items()}
        if asked := [name for name in ANSWERS if name in names]:
            works |= {name: reader(server, name) for name in asked}
            fill(server)
        beside(server, seconds, None)  # warm-up
        for name, work in works.items():
            pairs = []
            for _ in range(rounds):
                if name == "claim":
                    free(server)
                alone = beside(server, seconds, None)
                with_it = beside(server, seconds, work)
                pairs.append((alone, with_it))
            added = [max(0.0, with_it["worst_ms"] - alone["worst_ms"]) for alone, with_it in pairs]
            found[name] = {
                "alone_ms": Spread.of([alone["worst_ms"] for alone, _ in pairs]).rounded(),
                "beside_ms": Spread.of([with_it["worst_ms"] for _, with_it in pairs]).rounded(),
                "added_ms": Spread.of(added).rounded(),
                "most_added_ms": round(max(added), 1),
                "grown_mib": round(max(with_it["grown_mib"] for _, with_it in pairs), 1),
                "pairs": pairs,
            }
            print(line(driver, name, found[name]), flush=True)
    return found


def line(driver: str, name: str, one: dict[str, Any]) -> str:
    """A row of the table."""
    said = "reached" if one["added_ms"]["median"] <= GOAL_MS else "not reached"
    alone, beside_it, added = (one[name]["median"] for name in ("alone_ms", "beside_ms", "added_ms"))
    numbers = f"{alone:.0f} | {beside_it:.0f} | **{added:.0f}** | {one['most_added_ms']:.0f}"
    return f"| {driver} | {name} | {numbers} | {one['grown_mib']:.0f} | {said} |"


HEAD = """\
| driver | body | longest wait of /livez, ms | beside it | added | at most | memory, MiB | |
|---|---|---|---|---|---|---|---|"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench bodies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds (5)")
    parser.add_argument("--seconds", type=float, default=ROUND_S, help=f"of each half of a round ({ROUND_S})")
    parser.add_argument("--at-once", type=int, default=1, help="bodies posted at once (1)")
    parser.add_argument("--drivers", default=",".join(installed()), help="which drivers, by commas")
    parser.add_argument(
        "--body", action="append", choices=[*BODIES, *ANSWERS], help="which, all without it; again for more"
    )
    parser.add_argument("--json", type=Path, help="where the result goes as JSON")
    options = parser.parse_args(arguments)
    print(HEAD)
    result = {
        driver: measure(
            driver, options.body or [*BODIES, *ANSWERS], options.rounds, options.at_once, options.seconds
        )
        for driver in options.drivers.split(",")
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
