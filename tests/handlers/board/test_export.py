"""The export: one snapshot, in flat memory, and never half of it for a whole."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application

from db import Database
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test(timeout=60)

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}


async def fill(client: Client, count: int) -> None:
    response = await client.post("/tasks/bulk", {"items": [TASK | {"change_id": n} for n in range(count)]})
    assert response.code == 201


def fill_wide(sql: RawSql, count: int) -> None:
    """More than the socket's buffers of both ends hold, so that an export has to wait for its reader."""
    sql(
        "INSERT INTO tasks (id, s3_keys, bundle, granularity, target_date, change_id)"
        " WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)"
        " SELECT '00000000000000000000000000' || (100000 + n), CAST(:keys AS JSON), 'store', 'daily',"
        " '2020-04-01', n FROM n",
        count=count,
        keys=json.dumps({"path": "x" * 1000}),
    )


async def test_every_task_is_a_line_in_the_order_of_the_ids(client: Client, database: Database):
    await fill(client, 2500)

    response = await client.get("/tasks/export")

    lines = [json.loads(line) for line in response.body.splitlines()]
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    assert {line["change_id"] for line in lines} == set(range(2500))
    assert (await client.get(f"/tasks/{lines[7]['id']}")).json() == lines[7]
    assert await database.idle(2)
    assert database.reader.limiter.taken == 0


async def test_an_export_takes_the_filters_of_the_list_and_no_limit(client: Client):
    await fill(client, 3)
    await client.post("/tasks", TASK | {"bundle": "other"})

    response = await client.get("/tasks/export?bundle=other")

    assert [json.loads(line)["bundle"] for line in response.body.splitlines()] == ["other"]
    for query in ("limit=5", "cursor=x", "nix=1", "status=7"):
        assert (await client.get(f"/tasks/export?{query}")).code == 400


async def test_an_export_of_nothing_is_empty(client: Client):
    response = await client.get("/tasks/export")

    assert (response.code, response.body) == (200, b"")


async def test_the_head_of_an_export_says_nothing_of_its_length(client: Client, database: Database):
    """It is not known yet; and 0 would be wrong."""
    await fill(client, 3)

    response = await client.head("/tasks/export")

    assert (response.code, response.body) == (200, b"")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert "Content-Length" not in response.headers
    assert (await client.head("/tasks/export?nix=1")).code == 400
    assert await database.idle(2)


async def test_what_is_written_meanwhile_is_not_in_it(client: Client, app: Application, sql: RawSql):
    """One snapshot: rows that come and go between two pages change nothing."""
    await fill(client, 3000)
    seen: list[bytes] = []

    def read(chunk: bytes) -> None:
        if not seen:
            sql("UPDATE tasks SET bundle = 'changed'")
            sql("DELETE FROM tasks WHERE change_id > 1500")
        seen.append(chunk)

    http = AsyncHTTPClient(force_instance=True)
    await http.fetch(f"http://127.0.0.1:{client.port}/tasks/export", streaming_callback=read)
    http.close()

    lines = [json.loads(line) for line in b"".join(seen).splitlines()]
    assert len(lines) == 3000
    assert {line["bundle"] for line in lines} == {"store"}


async def test_more_than_may_run_at_once_are_told_to_come_back(
    client: Client, app: Application, expect_log: ExpectLog
):
    await fill(client, 1)
    limiter = app.settings["exports"]
    held = [limiter.acquire_nowait() for _ in range(limiter.size)]

    with expect_log("tornado.access", "503 GET /tasks/export"), expect_log("onfinish", "exports are running"):
        response = await client.get("/tasks/export")
    held.pop()

    assert (response.code, response.headers["Retry-After"]) == (503, "10")
    assert (await client.get("/tasks/export")).code == 200
    assert limiter.taken == len(held) == limiter.size - 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_backend_killed_midway_breaks_the_transfer(
    client: Client, sql: RawSql, database: Database, app: Application, expect_log: ExpectLog
):
    """The client sees a connection that ends without the last chunk, not an export that ends early."""
    fill_wide(sql, 20_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=4096)
    writer.write(b"GET /tasks/export HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    with expect_log("onfinish", "ConnectionLost|broke|thrown away", required=False):
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        rest = b""
        try:
            while piece := await reader.read(65_536):
                rest += piece
        except ConnectionResetError:
            pass
    writer.close()

    assert not rest.endswith(b"0\r\n\r\n")
    assert rest.count(b'"id"') < 20_000
    assert app.settings["exports"].taken == 0
    assert (await client.get("/tasks?limit=1")).code == 200


async def test_a_client_that_leaves_takes_its_export_along(
    client: Client, database: Database, app: Application, sql: RawSql
):
    fill_wide(sql, 20_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=4096)
    writer.write(b"GET /tasks/export HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    writer.transport.abort()

    assert await database.idle(5)
    assert database.reader.limiter.taken == 0
    await asyncio.sleep(0.05)
    assert app.settings["exports"].taken == 0
