"""A walk through the whole list by cursor, while others write."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}
START = 5000
PAGE = 250
WRITERS = 4


@pytest.mark.gen_test(timeout=90)
async def test_every_task_of_the_start_is_seen_once_while_four_writers_insert(client: Client, sql: RawSql):
    """Many of them in the same microsecond, as a bulk makes them."""
    for at in range(0, START, 1000):
        answer = await client.post("/tasks/bulk", {"items": [TASK | {"change_id": at}] * 1000})
        assert answer.code == 201
    start = {row["id"] for row in sql("SELECT id FROM tasks")}
    done = asyncio.Event()

    async def write(number: int) -> int:
        count = 0
        while not done.is_set():
            answer = await client.post("/tasks", TASK | {"bundle": f"writer {number}"})
            assert answer.code == 201, answer
            count += 1
        return count

    writers = [asyncio.ensure_future(write(number)) for number in range(WRITERS)]
    seen: list[str] = []
    path: str | None = f"/tasks?limit={PAGE}"
    while path is not None:
        page = (await client.get(path)).json()
        seen += [task["id"] for task in page["items"]]
        path = page["next_cursor"] and f"/tasks?limit={PAGE}&cursor={page['next_cursor']}"
    done.set()
    written = await asyncio.gather(*writers)

    assert len(start) == START
    assert [task_id for task_id, times in Counter(seen).items() if times > 1] == []
    assert start <= set(seen)
    assert min(written) > 0
    assert len(sql("SELECT id FROM tasks")) == START + sum(written)


@pytest.mark.gen_test(timeout=90)
async def test_what_is_deleted_behind_and_before_the_walk_does_not_lead_it_astray(client: Client):
    """The very task that the cursor stands at included."""
    answer = await client.post("/tasks/bulk", {"items": [TASK] * 100})
    ids = [task["id"] for task in (await client.get("/tasks?limit=100")).json()["items"]]
    assert sorted(ids) == sorted(answer.json()["ids"])

    page = (await client.get("/tasks?limit=10")).json()
    for at in (3, 9, 10, 50):
        assert (await client.delete(f"/tasks/{ids[at]}")).code == 204
    rest = (await client.get(f"/tasks?limit=1000&cursor={page['next_cursor']}")).json()["items"]

    assert [task["id"] for task in rest] == [ids[at] for at in range(11, 100) if at != 50]
