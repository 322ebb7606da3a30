"""Many tasks at once: all of them or none."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test(timeout=60)

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}
AN_ID = "f2ee55c638084ebfb35a00c003670ad9"


async def test_ten_thousand_tasks_are_created_in_their_order(client: Client, sql: RawSql):
    items = [TASK | {"change_id": number} for number in range(10_000)]

    response = await client.post("/tasks/bulk", {"items": items})

    assert response.code == 201
    answer = response.json()
    assert answer["created"] == len(set(answer["ids"])) == 10_000
    stored = {row["id"]: row["change_id"] for row in sql("SELECT id, change_id FROM tasks")}
    assert [stored[task_id] for task_id in answer["ids"]] == list(range(10_000))


async def test_one_id_that_is_taken_keeps_all_from_being_created(client: Client, sql: RawSql):
    await client.post("/tasks", TASK | {"id": AN_ID})

    response = await client.post("/tasks/bulk", {"items": [TASK, TASK | {"id": AN_ID}]})

    assert (response.code, response.json()["outcome"]) == (409, "not_applied")
    assert len(sql("SELECT id FROM tasks")) == 1


async def test_every_fault_is_told_with_its_pointer(client: Client, sql: RawSql):
    items = [TASK, TASK | {"change_id": -1}, TASK | {"nix": 1, "bundle": ""}, 7]

    response = await client.post("/tasks/bulk", {"items": items})

    assert response.code == 422
    pointers = {fault["pointer"] for fault in response.json()["errors"]}
    assert pointers == {"/items/1/change_id", "/items/2/nix", "/items/2/bundle", "/items/3"}
    assert sql("SELECT id FROM tasks") == []


async def test_an_id_that_stands_twice_is_told(client: Client):
    response = await client.post("/tasks/bulk", {"items": [TASK | {"id": AN_ID}, TASK, TASK | {"id": AN_ID}]})

    assert response.code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == ["/items/2/id"]


async def test_an_id_that_stands_twice_is_told_among_other_faults(client: Client):
    items = [TASK | {"id": AN_ID}, TASK | {"bundle": ""}, TASK | {"id": AN_ID, "change_id": -1}, 7]

    response = await client.post("/tasks/bulk", {"items": items, "nix": 1})

    assert response.code == 422
    pointers = {fault["pointer"] for fault in response.json()["errors"]}
    assert pointers == {"/items/1/bundle", "/items/2/change_id", "/items/2/id", "/items/3", "/nix"}


async def test_every_team_that_is_missing_is_told(client: Client, sql: RawSql):
    team_id = (await client.post("/teams", {"name": "a"})).json()["id"]
    items = [
        TASK | {"team_id": team_id},
        TASK | {"team_id": team_id + 1},
        TASK,
        TASK | {"team_id": team_id + 2},
    ]

    response = await client.post("/tasks/bulk", {"items": items})

    assert response.code == 422
    pointers = [fault["pointer"] for fault in response.json()["errors"]]
    assert pointers == ["/items/1/team_id", "/items/3/team_id"]
    assert sql("SELECT id FROM tasks") == []


@pytest.mark.parametrize("items", [[], [TASK] * 10_001])
async def test_none_and_too_many_are_refused(client: Client, items: list[object]):
    response = await client.post("/tasks/bulk", {"items": items})

    assert response.code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == ["/items"]


async def test_others_are_served_while_a_bulk_is_read_and_written(client: Client):
    """None waits for ten thousand tasks: a bound on the longest of many, wide enough for a busy machine."""
    body = {"items": [TASK | {"s3_keys": {"path": "x" * 100}}] * 10_000}
    bulk = asyncio.ensure_future(client.post("/tasks/bulk", body))
    longest_s, count = 0.0, 0
    while not bulk.done():
        began = own_time()
        assert (await client.get("/livez")).code == 200
        longest_s, count = max(longest_s, own_time() - began), count + 1

    assert (await bulk).code == 201
    assert count > 5
    assert longest_s < 1
