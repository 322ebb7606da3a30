"""asyncpg's ``executemany`` of the rows of a bulk, in one transaction, without HTTP. Prints what it took."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from datetime import UTC, date, datetime

import asyncpg

from tests.bench.peers.contract import database_url
from tests.bench.peers.floor_app import INSERT, set_up


async def main(number: int) -> None:
    """Add so many rows."""
    connection = await asyncpg.connect(database_url())
    await set_up(connection)
    moment = datetime.now(UTC)
    rows = [
        (uuid.uuid4().hex, 101, {}, "store", "daily", date(2020, 4, 1), 3, None, 1, moment, moment)
        for _ in range(number)
    ]
    began_s, cpu_s = time.perf_counter(), time.process_time()
    async with connection.transaction():
        await connection.executemany(INSERT, rows)
    took_s = time.perf_counter() - began_s
    print(json.dumps({"per_s": number / took_s, "cpu_us": (time.process_time() - cpu_s) / number * 1e6}))
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
