"""Where a request's CPU goes: by package, and by function.

::

    python -m tests.bench profile one create --driver psycopg2

Each thread is traced in CPU time, greenlets included. What the trace itself takes is left out, and the
shares are laid over what a request takes without it. The kernel's part, such as waking a thread, is with the
function that asked for it; what a builtin takes is its caller's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench.calls import CALLS, Board, Call
from tests.bench.compare import CONNECTIONS
from tests.bench.databases import databases
from tests.bench.load import Load
from tests.bench.subjects import Server, Subject, installed_drivers, ours, started
from tests.fixtures.waiting import wait_until

_WRITE_TIMEOUT_S = 60.0
_LISTED = 20

# The first that fits. A builtin has no file, and belongs to its caller.
_PARTS = (
    ("the driver", r"psycopg|asyncpg|aiosqlite"),
    ("waiting for the loop's sockets", r"select\.epoll|selectors\.py"),
    ("SQLAlchemy, ORM", r"/sqlalchemy/orm/|/sqlalchemy/ext/"),
    ("SQLAlchemy, pool", r"/sqlalchemy/pool/"),
    ("SQLAlchemy, Core", r"/sqlalchemy/"),
    ("Tornado", r"/tornado/"),
    ("onfinish, handlers", r"/handlers/"),
    ("onfinish, db", r"/db/"),
    ("onfinish, server and conf", r"/(server|conf)/"),
    ("threads and what they wait with", r"/concurrent/|/threading\.py|/queue\.py|_queue\."),
    ("asyncio", r"/asyncio/"),
    ("JSON", r"/json/"),
    ("pydantic", r"/pydantic"),
    ("logging", r"/logging/"),
    ("the rest of the standard library", r""),
)

Function = tuple[str, int, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench profile", description=__doc__)
    parser.add_argument("calls", nargs="*", choices=[[], *CALLS], default=["one", "create"], metavar="CALL")
    parser.add_argument("--driver", choices=installed_drivers(), default="psycopg2")
    parser.add_argument("--database-url")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--scale", type=float, default=2.0, help="of the usual number of requests")
    parser.add_argument("--top", type=int, default=40, help="how many functions are listed")
    parser.add_argument("--json", type=Path, help="where everything goes as JSON")
    parser.add_argument("--markdown", type=Path, help="where the summary goes: between its marks, if any")
    options = parser.parse_args(arguments)
    result = {}
    with databases(options.database_url) as made:
        for name in options.calls:
            call = CALLS[name]
            number = max(1, round(call.requests * options.scale))
            plain_us = _plain(made.new(options.tasks), options.driver, call, options.tasks, number)
            traced = _profiled(made.new(options.tasks), options.driver, call, options.tasks, number)
            result[name] = summary(traced, number=number * call.rows, plain_us=plain_us)
            print(text(call, result[name], top=options.top))
    if options.markdown:
        tables = markdown(result, driver=options.driver)
        report.between(tables, options.markdown, report.PROFILE_BEGIN, report.PROFILE_END)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def summary(traced: dict[str, Any], *, number: int, plain_us: float) -> dict[str, Any]:
    """Microseconds of a request by part and by function.

    Args:
        traced: what `tests.bench.profiled` has noted.
        number: how many requests that was.
        plain_us: what one takes without a trace.
    """
    functions, builtins, look_s = traced["functions"], traced["builtins"], traced["look_s"]
    # Looking at the clock costs the same each time.
    looked_s = sum(own_s - look_s * own_pieces for *_, own_s, own_pieces, _, _ in functions)
    per_request = plain_us / looked_s
    parts: dict[str, float] = {}

    def add(part: str, own_s: float) -> None:
        parts[part] = parts.get(part, 0.0) + own_s * per_request

    for file, line, name, _, own_s, own_pieces, _, _ in functions:
        if file != "~":
            add(part_of((file, line, name)), own_s - look_s * own_pieces)
    for *caller, file, line, name, own_s, own_pieces in builtins:
        own = part_of((file, line, name))
        whose = part_of((caller[0], caller[1], caller[2])) if own == _PARTS[-1][0] else own
        add(whose, own_s - look_s * own_pieces)
    found = [
        {
            "name": name_of((file, line, name)),
            "calls": calls / number,
            "own_us": (own_s - look_s * own_pieces) * per_request,
            "with_called_us": (all_s - look_s * all_pieces) * per_request,
        }
        for file, line, name, calls, own_s, own_pieces, all_s, all_pieces in functions
        if calls  # else it was called before, and has not returned yet
    ]
    return {
        "plain_us": plain_us,
        "traced_us": looked_s / number * 1e6,
        "look_us": look_s * 1e6,
        "parts_us": dict(sorted(parts.items(), key=lambda item: -item[1])),
        "functions": sorted(found, key=lambda one: one["own_us"], reverse=True),
    }


def text(call: Call, found: dict[str, Any], *, top: int) -> str:
    """A summary to be read."""
    plain_us, traced_us = found["plain_us"], found["traced_us"]
    lines = [f"\n{call.label}: {plain_us:.0f} µs of CPU ({traced_us:.0f} while it is traced)\n"]
    lines += [f"{us:8.1f}  {name}" for name, us in found["parts_us"].items()]
    lines.append("\n     own  with what it calls   calls  function")
    for one in found["functions"][:top]:
        lines.append(
            f"{one['own_us']:8.1f}  {one['with_called_us']:19.1f}  {one['calls']:6.1f}  {one['name']}"
        )
    lines.append("\nonfinish's own functions, with what they call")
    for one in _ours(found)[:top]:
        lines.append(
            f"{one['own_us']:8.1f}  {one['with_called_us']:19.1f}  {one['calls']:6.1f}  {one['name']}"
        )
    return "\n".join(lines)


def markdown(result: dict[str, Any], *, driver: str) -> str:
    """The summaries as tables: by part, and the dearest of the service's own functions."""
    lines = [
        f"| CPU per request, µs ({driver}) | {' | '.join(CALLS[call].label for call in result)} |",
        f"|---|{'---|' * len(result)}",
    ]
    for part, _ in _PARTS:
        found = [one["parts_us"].get(part, 0.0) for one in result.values()]
        if any(us >= 1 for us in found):
            lines.append(f"| {part} | {' | '.join(f'{us:.0f}' for us in found)} |")
    whole = [f"{one['plain_us']:.0f}" for one in result.values()]
    lines.append(f"| all | {' | '.join(whole)} |")
    for call, one in result.items():
        lines += ["", f"| {CALLS[call].label}: the service's own | µs, with what it calls |", "|---|---|"]
        for function in _ours(one)[:_LISTED]:
            lines.append(f"| `{function['name']}` | {function['with_called_us']:.0f} |")
    return "\n".join(lines) + "\n"


def _ours(found: dict[str, Any]) -> list[dict[str, Any]]:
    own = [one for one in found["functions"] if re.match(r"(conf|db|handlers|server)/", one["name"])]
    return sorted(own, key=lambda one: one["with_called_us"], reverse=True)


def part_of(function: Function) -> str:
    """Whose a function is."""
    named = f"{function[0]} {function[2]}"
    return next(name for name, pattern in _PARTS if re.search(pattern, named))


def name_of(function: Function) -> str:
    """A function as it is listed: its file below the package's folder, and its name."""
    file, line, name = function
    if file == "~":
        return name
    short = re.sub(r"^.*?/(?=(conf|db|handlers|server)/[^/]*(/[^/]*)*$)", "", file)
    short = re.sub(r"^.*/(site-packages|python3\.\d+)/", "", short)
    return f"{short}:{line} {name}"


def _drive(server: Server, call: Call, board: Board, number: int) -> float:
    requests = call.requests_of(board, number)
    with Load(server.port, call.connections or CONNECTIONS) as load:
        before_s = server.cpu_s()
        load.run(requests, status=call.status)
        return (server.cpu_s() - before_s) / number / call.rows * 1e6


def _plain(url: str, driver: str, call: Call, tasks: int, number: int) -> float:
    board = Board(url, tasks)
    with started(ours(driver), url, environments=Path()) as server:
        _drive(server, call, board, number // 4 + 1)
        return _drive(server, call, board, number)


def _profiled(url: str, driver: str, call: Call, tasks: int, number: int) -> Any:
    board = Board(url, tasks)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile"
        variables = {
            "DRIVER": driver,
            "PROFILE": str(path),
            "ENVIRONMENT": "production",
            "LOG_LEVEL": "warning",
            "GRACE_S": "0",
        }
        subject = Subject(
            "profiled",
            "the service, profiled",
            command=("-m", "tests.bench.profiled"),
            variables=tuple(variables.items()),
        )
        with started(subject, f"{url}?sslmode=disable", environments=Path()) as server:
            _drive(server, call, board, number // 4 + 1)
            os.kill(server.pid, signal.SIGUSR1)
            _drive(server, call, board, number)
            os.kill(server.pid, signal.SIGTERM)
            if not wait_until(path.exists, timeout_s=_WRITE_TIMEOUT_S):
                raise RuntimeError("the service did not write its profile")
        return json.loads(path.read_text())


if __name__ == "__main__":
    raise SystemExit(main())
