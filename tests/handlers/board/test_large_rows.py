"""Lists of tasks with large `s3_keys`: no answer holds all of them, and what is told of each is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test(timeout=60)

ROW_CHARS = 64 * 1024
COUNT = 150


def fill(sql: RawSql, count: int, keys: str) -> list[str]:
    """Rows that another program has written; their ids in the order of the list."""
    sql(
        "INSERT INTO tasks (id, bundle, granularity, target_date, change_id)"
        " WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)"
        " SELECT '00000000000000000000000000' || (100000 + n), 'store', 'daily',"
        " '2020-04-01', n FROM n",
        count=count,
    )
    sql("UPDATE tasks SET s3_keys = :keys", keys=keys)
    rows = sql("SELECT id FROM tasks ORDER BY create_time DESC, id DESC")
    return [row["id"] for row in rows]


def keys_of(chars: int) -> str:
    """An object's text, so many characters long."""
    return json.dumps({"a": "x" * (chars - len(json.dumps({"a": ""})))})


async def walk(client: Client, limit: int) -> list[list[dict[str, Any]]]:
    """All pages of the list."""
    pages = []
    path: str | None = f"/tasks?limit={limit}"
    while path is not None:
        answer = (await client.get(path)).json()
        pages.append(answer["items"])
        path = answer["next_cursor"] and f"/tasks?limit={limit}&cursor={answer['next_cursor']}"
    return pages


@pytest.mark.parametrize("limit", [90, 1000])
async def test_a_page_of_large_tasks_ends_early_and_the_walk_shows_each_once(
    client: Client, sql: RawSql, limit: int
):
    ids = fill(sql, COUNT, keys_of(ROW_CHARS))

    pages = await walk(client, limit)

    assert [task["id"] for page in pages for task in page] == ids
    assert [len(page) for page in pages] == [64, 64, COUNT - 128]


async def test_the_list_ends_with_the_task_that_fills_its_page(client: Client, sql: RawSql):
    """No cursor leads to a page with nothing on it."""
    fill(sql, 64, keys_of(ROW_CHARS))

    answer = (await client.get("/tasks?limit=1000")).json()

    assert (len(answer["items"]), answer["next_cursor"]) == (64, None)


async def test_a_claim_returns_all_that_it_takes_however_large(client: Client, sql: RawSql):
    ids = fill(sql, COUNT, keys_of(ROW_CHARS))

    taken = (await client.post("/tasks/claim", {"limit": 100})).json()["items"]

    running = {row["id"] for row in sql("SELECT id FROM tasks WHERE task_status = 102")}
    assert len(taken) == 100
    assert {task["id"] for task in taken} == running < set(ids)


async def test_an_export_of_large_tasks_has_a_line_of_each(client: Client, sql: RawSql):
    ids = fill(sql, COUNT, keys_of(ROW_CHARS))

    lines = [json.loads(line) for line in (await client.get("/tasks/export")).body.splitlines()]

    assert [line["id"] for line in lines] == sorted(ids)
    assert {line["s3_keys"]["a"] for line in lines} == {json.loads(keys_of(ROW_CHARS))["a"]}


KEYS = [
    "{}",
    '{"ü": "\\u00fc\\ud83d\\ude80", "n": [1, 1.0, -0.0, 1e22, 18446744073709551616, true, null]}',
    '{\n  "b": [\n    1\n  ],\n  "a": "\\n"\n}\n',
    '{"deep": ' + "[" * 90 + "]" * 90 + "}",
]


@pytest.mark.parametrize("keys", KEYS, ids=["empty", "escaped", "on many lines", "deep"])
async def test_a_task_is_told_in_the_same_bytes_alone_in_a_list_claimed_and_exported(
    client: Client, sql: RawSql, keys: str
):
    [task_id] = fill(sql, 1, keys)

    async def alone() -> bytes:
        return (await client.get(f"/tasks/{task_id}")).body

    assert (await client.get("/tasks")).body == b'{"items":[%b],"next_cursor":null}' % await alone()
    assert (
        await client.get("/tasks?limit=1000")
    ).body == b'{"items":[%b],"next_cursor":null}' % await alone()
    assert (await client.get("/tasks/export")).body == await alone() + b"\n"
    assert (await client.post("/tasks/claim", {"limit": 1})).body == b'{"items":[%b]}' % await alone()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_no_number_that_json_does_not_have_leaves_a_database_that_keeps_any_text(
    client: Client, sql: RawSql
):
    """PostgreSQL refuses such text."""
    fill(sql, 1, "{}")
    sql("""UPDATE tasks SET s3_keys = '{"a": NaN, "b": Infinity}'""")

    assert (await client.get("/tasks")).json()["items"][0]["s3_keys"] == {"a": None, "b": None}
    assert json.loads((await client.get("/tasks/export")).body)["s3_keys"] == {"a": None, "b": None}
