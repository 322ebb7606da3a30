"""How often a request goes to the database and back: counted on the wire, by a proxy.

::

    python -m tests.bench trips
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests.bench.calls import CALLS, Board
from tests.bench.databases import Databases
from tests.bench.goal import Goal
from tests.bench.load import Load
from tests.bench.rounds import Spread
from tests.bench.subjects import ours, started
from tests.fixtures.proxies import PostgresWire

MOST = {"one": 1, "create": 2, "patch": 3}
TIMES = 3
"""The last of them is counted: connections are there then, and plans are prepared."""


def measure(databases: Databases, *, driver: str) -> dict[str, Any]:
    """Count those of each call, by the service's one connection for it."""
    url = databases.new(10)
    board = Board(url, 10)
    at = make_url(url)
    trips = {}
    with closing(PostgresWire((str(at.host), at.port or 5432))) as wire:
        through = at.set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
        with started(ours(driver, POOL_SIZE="1"), through, environments=Path()) as server:
            for name in MOST:
                with Load(server.port, 1) as load:
                    for _ in range(TIMES):
                        wire.trips()
                        load.run(iter([CALLS[name].ask(board)]), status=CALLS[name].status)
                        trips[name] = wire.trips()
    found = [
        Goal(f"round trips, {CALLS[name].label}, {driver}", "counted by a proxy", most).found(
            Spread.of([float(trips[name])])
        )
        for name, most in MOST.items()
    ]
    return {"driver": driver, "trips": trips, "goals": found}
