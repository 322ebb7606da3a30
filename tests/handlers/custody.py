"""What is checked out of a database: units of work, slots, connections."""

from __future__ import annotations

import contextlib

from sqlalchemy.pool import QueuePool

from db import Database
from tests.handlers.waiting import until


def lent(database: Database) -> dict[str, int]:
    """All that is not back; an empty dict where everything is."""
    out = {"units": len(database.units), "holders": database.registry.holders}
    for endpoint in (database.writer, database.reader):
        pool = endpoint.engine.pool
        assert isinstance(pool, QueuePool)
        out[f"{endpoint.limiter.name} slots"] = endpoint.limiter.taken
        out[f"{endpoint.limiter.name} queue"] = endpoint.limiter.waiting
        out[f"{endpoint.limiter.name} connections"] = pool.checkedout()
    return {name: number for name, number in out.items() if number}


async def all_back(database: Database, *, within_s: float = 10.0) -> dict[str, int]:
    """What is still lent after waiting for it: for requests whose client could not wait for an answer."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: not lent(database), within_s=within_s)
    return lent(database)
