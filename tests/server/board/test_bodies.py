"""How large a body of the board may be, on the server that serves it."""

from __future__ import annotations

import json

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client
from tests.server.test_limits import MIB

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}


@on_sqlite
async def test_a_task_has_a_megabyte_and_a_bulk_has_eight(client: Client, sql: RawSql):
    padded = json.dumps({"items": [TASK]}).encode()
    padded += b" " * (8 * MIB - len(padded))

    one = await client.post("/tasks", json.dumps(TASK).encode() + b" " * MIB)
    bulk = await client.post("/tasks/bulk", padded, headers={"Content-Type": "application/json"})

    assert (one.code, one.json()["detail"]) == (413, "a body here has at most 1048576 bytes")
    assert bulk.code == 201
    assert len(sql("SELECT id FROM tasks")) == 1


@on_sqlite
async def test_a_bulk_of_too_many_values_is_413_and_nothing_of_it_is_kept(client: Client, sql: RawSql):
    task = TASK | {"s3_keys": {"a": [1] * 20_000}}

    response = await client.post("/tasks/bulk", {"items": [task] * 30})

    assert (response.code, response.json()["detail"]) == (413, "a body here has at most 500000 values")
    assert sql("SELECT id FROM tasks") == []


@on_sqlite
async def test_the_first_thousand_faults_of_a_bulk_are_told(client: Client):
    """And that there are more."""
    items = [TASK | dict.fromkeys(map(str, range(90)), 1)] * 5_000

    response = await client.post("/tasks/bulk", {"items": items})

    assert response.code == 422
    assert response.json()["detail"] == "the body has more than 1000 faults, the first 1000 are listed"
    assert len(response.json()["errors"]) == 1000
