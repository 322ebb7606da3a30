"""A replica that lags: a read with a write's token sees the write."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from tornado.web import Application

from conf import Settings
from db import Database
from db.doctor import examine as checkup
from db.doctor.findings import Plan
from db.errors import Unavailable
from db.written import KEPT_S, Written
from tests.faults.read_your_writes.conftest import (
    BOOK,
    DRIVERS,
    NAME,
    Recorded,
    after,
    ask,
    catch_up,
    token_of_a_lost_write,
    write,
)
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.server import Client, Serve
from tests.fixtures.standby import Standby
from tests.fixtures.waiting import wait_until
from tests.service import model

pytestmark = [pytest.mark.gen_test(timeout=60)]


@pytest.mark.usefixtures("paused")
class TestAReplicaThatLags:
    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_a_read_with_the_token_sees_the_write_and_one_without_does_not(
        self, client: Client, recorded: Recorded
    ):
        """0 of 10 are stale with it, 10 of 10 without."""
        with_token, without = [], []
        for _ in range(10):
            written = await write(client)
            path = written.headers["Location"]
            without.append((await client.get(path)).code)
            with_token.append((await client.get(path, headers=after(written))).code)

        assert without == [404] * 10
        assert with_token == [200] * 10
        assert recorded.counts == {"primary": 10}

    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_lists_exports_and_snapshots_see_it_too(self, client: Client, drivername: str):
        written = await write(client)
        book_id = written.json()["id"]

        listed = await client.get("/books?limit=1000", headers=after(written))
        exported = await client.get("/export", headers=after(written))
        in_snapshot = await client.get(f"/snapshots/{book_id}", headers=after(written))
        stale = await client.get("/export")

        assert book_id in [book["id"] for book in listed.json()["items"]]
        assert book_id in exported.body.decode().split()
        assert in_snapshot.code == 200
        assert book_id not in stale.body.decode().split()

    async def test_head_is_answered_as_get_is(self, client: Client):
        written = await write(client)
        path = written.headers["Location"]

        answers = [await client.head(path, headers=each) for each in (after(written), {})]

        assert [each.code for each in answers] == [200, 404]

    async def test_a_conditional_read_compares_with_what_was_written(self, client: Client):
        """The tag of the old representation is not current any more, though the replica thinks so."""
        shelf = await client.post("/shelves", {"name": "of a tag"})
        path = f"/tagged/{shelf.json()['id']}"
        old = (await client.get(path, headers=after(shelf))).headers["ETag"]
        changed = await client.patch(shelf.headers["Location"], {"name": "of another"})

        answer = await client.get(path, headers=after(changed) | {"If-None-Match": old})
        again = await client.get(path, headers=after(changed) | {"If-None-Match": answer.headers["ETag"]})

        assert (answer.code, answer.body) == (200, b"of another")
        assert again.code == 304

    async def test_all_tokens_of_a_list_are_waited_for(self, client: Client):
        first, second = await asyncio.gather(write(client), write(client))

        answers = [
            await client.get(each.headers["Location"], headers=after(first, second))
            for each in (first, second)
        ]

        assert [each.code for each in answers] == [200, 200]

    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_what_reads_on_the_primary_cannot_write_there(
        self, client: Client, expect_log: ExpectLog, primary: PostgresCluster
    ):
        written = await write(client)

        with expect_log("onfinish.handlers", "a write in a read-only"), expect_log("tornado.access", "500"):
            answer = await client.get("/writes", headers=after(written))

        assert answer.code == 500
        assert RawSql(primary.url_for(NAME))("SELECT * FROM shelves WHERE name = 'never'") == []
        assert (await write(client)).code == 201, "the writer's connection writes again"

    async def test_a_replica_that_catches_up_in_time_is_read_from(
        self, app: Application, serve: Serve, standby: Standby, recorded: Recorded, database: Database
    ):
        database.settings = database.settings.model_copy(update={"read_after_wait_ms": 5_000})
        client = serve(app)
        written = await write(client)

        reading = asyncio.ensure_future(client.get(written.headers["Location"], headers=after(written)))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(ask, standby, "SELECT pg_wal_replay_resume()")

        assert (await reading).code == 200
        assert recorded.counts == {"waited": 1}

    async def test_a_repeated_request_has_a_token_of_its_own(self, client: Client):
        """Its client may have lost the first answer, and that one's token."""
        keyed = {"Idempotency-Key": "again"}
        first = await client.post("/books", BOOK, headers=keyed)
        again = await client.post("/books", BOOK, headers=keyed)

        answer = await client.get(first.headers["Location"], headers=after(again))

        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Wrote"] != first.headers["Wrote"]
        assert answer.code == 200
        assert (await client.get(first.headers["Location"], headers=after(first))).code == 200


async def test_a_replica_that_is_in_step_is_read_from(
    client: Client, recorded: Recorded, primary: PostgresCluster, standby: Standby
):
    written = await write(client)
    catch_up(primary, standby)

    answer = await client.get(written.headers["Location"], headers=after(written))

    assert (answer.code, recorded.counts) == (200, {"reader": 1})


@pytest.mark.parametrize("further", [{"database.reader_url": None}], ids=["none"])
async def test_without_a_replica_no_read_is_counted_as_one_of_a_replica(client: Client, recorded: Recorded):
    written = await write(client)

    answer = await client.get(written.headers["Location"], headers=after(written))

    assert (answer.code, recorded.counts) == (200, {"reader": 1})


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_only_a_primary_decides_that_a_write_is_lost(
    database: Database, settings: Settings, recorded: Recorded
):
    """A connection of the writer's may lead to one that follows another by now."""
    missing = Written("ab" * 16, 1, time.time())
    demoted = Database(settings.database.for_reader(), recorded)

    async with database.unit_of_work(read_only=True, read_after=[missing]) as unit:
        await unit.run(model.list_books, unit.session, limit=1)
    with pytest.raises(Unavailable):
        async with demoted.unit_of_work(read_only=True, read_after=[missing]) as unasked:
            await unasked.run(model.list_books, unasked.session, limit=1)
    await demoted.close()

    assert (unit.lost_write, unit.pool) == (True, "writer")
    assert not unasked.lost_write
    assert recorded.counts == {"primary": 1, "lost": 1}


async def test_a_token_of_long_ago_costs_no_look(database: Database, recorded: Recorded):
    """Its marker may be deleted by now."""
    old = Written("ab" * 16, 1, time.time() - KEPT_S - 60)

    async with database.unit_of_work(read_only=True, read_after=[old]) as unit:
        await unit.run(model.list_books, unit.session, limit=1)

    assert (unit.statements, unit.pool, recorded.counts) == (1, "reader", {})


async def test_the_deadline_holds_while_a_replica_is_waited_for(
    app: Application, serve: Serve, database: Database, expect_log: ExpectLog, standby: Standby
):
    """504, and the slot is free again."""
    database.settings = database.settings.model_copy(update={"read_after_wait_ms": 10_000})
    app.settings["request_timeout_s"] = 0.3
    token = token_of_a_lost_write(database)
    client = serve(app)

    # It may pass in a statement, which is logged.
    with expect_log("tornado.access", "504"), expect_log("onfinish.handlers", "504", required=False):
        answer = await client.get("/books", headers={"Read-After": token})

    assert answer.code == 504
    assert database.reader.limiter.taken == 0
    assert (await client.get("/books")).code == 200


async def test_a_client_that_leaves_while_a_replica_is_waited_for_ends_its_read(
    client: Client, database: Database, recorded: Recorded, standby: Standby
):
    """The slot is free again long before the wait would be over."""
    database.settings = database.settings.model_copy(update={"read_after_wait_ms": 10_000})
    token = token_of_a_lost_write(database)
    assert (await client.get("/books")).code == 200  # else its client may leave while it connects

    with socket.create_connection(("127.0.0.1", client.port)) as leaving:
        leaving.sendall(f"GET /books HTTP/1.1\r\nHost: x\r\nRead-After: {token}\r\n\r\n".encode())
        assert await asyncio.to_thread(wait_until, lambda: database.reader.limiter.taken == 1)

    assert await asyncio.to_thread(wait_until, lambda: not database.reader.limiter.taken, timeout_s=2)
    assert recorded.counts == {}


@pytest.mark.parametrize("further", [{}, {"database.write_token_key": None}], ids=["tokens", "none"])
def test_the_doctor_names_a_replica_without_tokens(settings: Settings):
    plan = Plan(processes=1, production=False, request_timeout_s=30)

    found = [each.message for each in checkup.examine(settings.database, plan) if each.subject == "tokens"]

    assert found == (
        []
        if settings.database.write_token_key is not None
        else ["a client may not read there what it has just written: no tokens"]
    )
