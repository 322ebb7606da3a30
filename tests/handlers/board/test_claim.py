"""Claiming: each queued task is given to one caller."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test(timeout=60)

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}


async def test_twenty_claimers_get_every_task_once_and_leave_none(client: Client, sql: RawSql):
    await client.post("/tasks/bulk", {"items": [TASK] * 2000})
    given: Counter[str] = Counter()

    async def work() -> None:
        while True:
            response = await client.post("/tasks/claim", {"limit": 25})
            assert response.code == 200
            taken = [task["id"] for task in response.json()["items"]]
            if not taken:
                return
            given.update(taken)

    await asyncio.gather(*(work() for _ in range(20)))

    assert len(given) == 2000
    assert set(given.values()) == {1}
    assert sql("SELECT task_status, version, count(*) AS n FROM tasks GROUP BY 1, 2") == [
        {"task_status": 102, "version": 2, "n": 2000}
    ]


async def test_the_oldest_are_given_first_and_are_running_now(client: Client, sql: RawSql):
    ids = [(await client.post("/tasks", TASK)).json()["id"] for _ in range(4)]
    before = (await client.get(f"/tasks/{ids[0]}")).json()

    taken = (await client.post("/tasks/claim", {"limit": 2})).json()["items"]

    assert [task["id"] for task in taken] == ids[:2]
    assert [(task["task_status"], task["version"]) for task in taken] == [(102, 2)] * 2
    assert taken[0]["update_time"] > before["update_time"]
    assert (await client.get(f"/tasks/{ids[0]}")).json() == taken[0]


async def test_a_team_is_given_its_own(client: Client):
    team_id = (await client.post("/teams", {"name": "a"})).json()["id"]
    await client.post("/tasks", TASK)
    own = (await client.post("/tasks", TASK | {"team_id": team_id})).json()["id"]

    taken = (await client.post("/tasks/claim", {"limit": 10, "team_id": team_id})).json()["items"]

    assert [task["id"] for task in taken] == [own]
    assert (await client.post("/tasks/claim", {"limit": 10, "team_id": 999})).json() == {"items": []}


async def test_only_queued_tasks_are_given(client: Client):
    for status in (102, 200, 400, 99):
        await client.post("/tasks", TASK | {"task_status": status})

    assert (await client.post("/tasks/claim", {"limit": 100})).json() == {"items": []}


@pytest.mark.parametrize(
    "body", [{}, {"limit": 0}, {"limit": 101}, {"limit": "5"}, {"limit": 5, "team_id": "a"}]
)
async def test_what_is_asked_for_is_checked(client: Client, body: dict[str, object]):
    assert (await client.post("/tasks/claim", body)).code == 422


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_task_that_is_locked_is_passed_over(client: Client, sql: RawSql):
    """The request does not wait for the lock: the next in the queue is given."""
    first, second = [(await client.post("/tasks", TASK)).json()["id"] for _ in range(2)]
    with sql.connect() as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM tasks WHERE id = %s FOR UPDATE", (first,))

        taken = (await client.post("/tasks/claim", {"limit": 5})).json()["items"]

    assert [task["id"] for task in taken] == [second]
