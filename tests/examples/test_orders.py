"""The application that docs/application.md shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database
from tests.examples import orders
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Answer, Client, Serve
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver("sqlite+aiosqlite", "postgresql+asyncpg")]


@pytest.fixture
def billing(other_url: str, io_loop: IOLoop) -> Iterator[Database]:
    database = Database(DatabaseSettings(url=other_url))
    database.create_all(orders.BillingBase.metadata)
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def client(database: Database, billing: Database, serve: Serve) -> Client:
    database.create_all(orders.Base.metadata)
    return serve(orders.make_app(database, billing))


async def order(client: Client, item: str) -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await client.post("/orders", f"item={item}".encode(), headers=headers)


async def test_an_order_and_its_bill_are_kept_and_the_mail_is_sent_after_that(
    client: Client, database: Database, sql: RawSql, other_url: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "orders")

    first, second = await order(client, "tea"), await order(client, "tea")
    await database.idle(5)

    assert (first.code, second.code) == (201, 201)
    assert [row["item"] for row in sql("SELECT item FROM orders")] == ["tea", "tea"]
    assert [row["name"] for row in sql("SELECT name FROM items")] == ["tea"]
    billed = [row["order_id"] for row in RawSql(other_url)("SELECT order_id FROM bills ORDER BY id")]
    assert billed == [first.json()["id"], second.json()["id"]]
    assert [each.getMessage() for each in caplog.records if each.name == "orders"] == [
        f"order {number} is on its way" for number in billed
    ]


async def test_the_job_deletes_what_is_old(
    client: Client, database: Database, sql: RawSql, monkeypatch: pytest.MonkeyPatch
):
    await order(client, "tea")
    await order(client, "coffee")
    sql("UPDATE orders SET day = '2001-01-01' WHERE item = 'tea'")
    monkeypatch.setattr("random.uniform", lambda least, most: 0.0005)

    jobs = orders.start_jobs(database)
    done = await asyncio.to_thread(
        wait_until,
        lambda: [row["item"] for row in sql("SELECT item FROM orders")] == ["coffee"],
        timeout_s=10,
    )
    await jobs.stop()

    assert done
