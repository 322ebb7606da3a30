"""Clients that leave, dawdle, or send half of what they announced: no connection is held for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from conf import Settings
from db import Database
from server.app import make_app
from tests.faults.board.test_what_a_client_reads import locked, until_waiting
from tests.faults.five_questions import FiveQuestions
from tests.faults.ledger import Ledger
from tests.fixtures.databases import RawSql
from tests.fixtures.edge import StartEdge
from tests.fixtures.server import Client
from tests.fixtures.waiting import wait_until
from tests.handlers.wire import Wire

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("told_in_the_log")]

JSON = "Content-Type: application/json"


@pytest.fixture
def service(settings: Settings, service_database: Database, start_edge: StartEdge) -> Iterator[Client]:
    """On the server that production runs, which knows of slow clients."""
    edge = start_edge(make_app(settings, service_database))
    client = Client(edge.port)
    yield client
    client.close()


def new_task(ledger: Ledger) -> tuple[str, bytes]:
    """An id and a body."""
    task_id = ledger.new_id()
    return task_id, json.dumps(ledger.resource.new(task_id, 1)).encode()


async def test_a_write_whose_client_leaves_before_the_answer_runs_to_its_end(
    five_questions: FiveQuestions, service: Client, ledger: Ledger, sql: RawSql
):
    await five_questions.remember()
    task_id, body = new_task(ledger)
    with locked(sql) as unlock:
        async with Wire(service.port) as wire:
            wire.send("POST /tasks HTTP/1.1", JSON, f"Content-Length: {len(body)}", body=body)
            await until_waiting(sql, "relation")
            wire.leave()
        await asyncio.sleep(0.1)
        unlock()

    ledger.possible[task_id] = frozenset({1})  # as the documentation says of writes
    kept = "SELECT 1 AS x FROM tasks WHERE id = :id"
    assert await asyncio.to_thread(wait_until, lambda: bool(sql(kept, id=task_id)))
    await five_questions.ask()


async def test_a_read_whose_client_leaves_is_cancelled_at_the_server(
    five_questions: FiveQuestions, service: Client, sql: RawSql
):
    await five_questions.remember()
    with sql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        async with Wire(service.port) as wire:
            wire.send("GET /tasks HTTP/1.1")
            await until_waiting(sql, "relation")
            wire.leave()
        waiting = "SELECT 1 AS x FROM pg_locks WHERE NOT granted"
        assert await asyncio.to_thread(wait_until, lambda: not sql(waiting))
    await five_questions.ask()


async def test_half_a_body_is_no_request(
    five_questions: FiveQuestions, service: Client, ledger: Ledger, service_database: Database
):
    """The client breaks off inside of its body: nothing is written, and no slot was taken for it."""
    await five_questions.remember()
    _, body = new_task(ledger)  # which the ledger expects to be absent
    async with Wire(service.port) as wire:
        wire.send("POST /tasks HTTP/1.1", JSON, f"Content-Length: {len(body)}", body=body[:-10])
        await asyncio.sleep(0.1)
        assert service_database.writer.limiter.taken == 0
        wire.leave()

    await five_questions.ask()


async def test_a_body_that_comes_slowly_holds_no_connection(
    five_questions: FiveQuestions, service: Client, ledger: Ledger, service_database: Database
):
    await five_questions.remember()
    task_id, body = new_task(ledger)
    async with Wire(service.port) as wire:
        wire.send("POST /tasks HTTP/1.1", JSON, f"Content-Length: {len(body)}")
        for at in range(0, len(body), 20):
            wire.writer.write(body[at : at + 20])
            await asyncio.sleep(0.02)
            if at + 20 < len(body):
                assert service_database.writer.limiter.taken == 0
        answer = await wire.answer()

    assert answer.code == 201
    ledger.note(task_id, 1, answer.code, None)
    await five_questions.ask()


async def test_an_answer_that_is_not_read_holds_no_connection(
    five_questions: FiveQuestions, service: Client, service_database: Database, sql: RawSql
):
    """The answer waits in memory; the session has ended. Past the idle limit the client is let go."""
    await five_questions.remember()
    sql("CREATE TABLE kept AS SELECT * FROM tasks")
    sql(
        "UPDATE tasks SET s3_keys = json_build_object('x', repeat('x', 60000))::text::json"
        " WHERE id IN (SELECT id FROM tasks LIMIT 50)"
    )
    async with Wire(service.port) as wire:
        wire.send("GET /tasks?limit=1000 HTTP/1.1")
        await wire.reader.readexactly(1)
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a ReadTransport, too

        def at_rest() -> bool:
            busy = sql(
                "SELECT 1 AS x FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name <> 'test' AND state <> 'idle'"
            )
            return not busy and service_database.reader.limiter.taken == 0

        assert await asyncio.to_thread(wait_until, at_rest)
        assert (await service.get("/tasks?limit=1")).code == 200
        wire.leave()
    sql("UPDATE tasks SET s3_keys = '{}'")
    await five_questions.ask()


async def test_an_export_whose_client_leaves_gives_its_connection_back(
    five_questions: FiveQuestions, service: Client, service_database: Database, ledger: Ledger, sql: RawSql
):
    """It is streamed out of a transaction, which lasts as long as the client reads."""
    sql(
        "INSERT INTO tasks (id, bundle, granularity, target_date, change_id, s3_keys)"
        " SELECT md5(n::text), 'store', 'daily', '2020-04-01', 1,"
        " json_build_object('x', repeat('x', 3000))::text::json FROM generate_series(1, 5000) n"
    )
    ledger.possible |= {row["id"]: frozenset({1}) for row in sql("SELECT id FROM tasks")}

    async def leave_half_way() -> None:
        async with Wire(service.port) as wire:
            wire.send("GET /tasks/export HTTP/1.1")
            await wire.reader.readexactly(1000)
            assert service_database.reader.limiter.taken >= 1
            wire.leave()
        assert await asyncio.to_thread(wait_until, lambda: service_database.reader.limiter.taken == 0)

    for _ in range(4):  # its pages are part of the memory before
        await leave_half_way()
    await five_questions.remember()

    for _ in range(4):
        await leave_half_way()

    await five_questions.ask()
