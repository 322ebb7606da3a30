"""Health: the reason why not, without confidential text, and soon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from conf.program import COMMAND
from db import Database
from db.health import CHECK_TIMEOUT_S, why_not_ready
from db.schema import migrate
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy
from tests.fixtures.slots import all_slots

pytestmark = pytest.mark.gen_test


async def test_a_database_at_the_right_revision_is_ready(database: Database):
    assert await why_not_ready(database, revision=migrate.head()) is None


async def test_a_database_without_a_schema_to_keep_is_ready_when_it_answers(database: Database, sql: RawSql):
    sql("DROP TABLE alembic_version")

    assert await why_not_ready(database, revision=None) is None


async def test_a_schema_that_is_behind_names_both_revisions_and_the_way_out(database: Database, sql: RawSql):
    sql("DELETE FROM alembic_version")
    sql("INSERT INTO alembic_version VALUES ('long_ago')")

    reason = await why_not_ready(database, revision="0042")

    assert reason == f"the schema is at long_ago, the code expects 0042: run `{COMMAND} migrate`"


async def test_a_schema_of_a_later_release_is_no_reason(database: Database, sql: RawSql):
    """In a rolling deployment it is migrated before the code is replaced: all instances would be out."""
    database.expect_schema(migrate.head(), known=migrate.known())
    sql("DELETE FROM alembic_version")
    sql("INSERT INTO alembic_version VALUES ('of_a_later_release')")

    assert await why_not_ready(database, revision=migrate.head()) is None


async def test_no_schema_at_all_is_said_so(database: Database, sql: RawSql):
    sql("DROP TABLE alembic_version")

    reason = await why_not_ready(database, revision="0042")

    assert reason == f"there is no schema; the code expects 0042: run `{COMMAND} migrate`"


async def test_full_readers_are_a_reason(database: Database):
    """The probe stands in the queue like any request, and does not stand there for long."""
    release = threading.Event()
    database.settings = database.settings.model_copy(update={"pool_timeout_s": 0.2})
    units = [database.unit_of_work(read_only=True) for _ in range(database.reader.limiter.size)]
    held = all_slots(database.reader.limiter)

    reason = await why_not_ready(database, revision=migrate.head())

    assert reason is not None
    assert reason.startswith("no connection is free")
    release.set()
    held.close()
    for unit in units:
        await unit.settle(keep=False)


async def test_a_queue_that_is_full_for_a_moment_is_none(database: Database):
    """The probe waits where a newcomer is refused: what is served soon needs no other server."""
    limiter = database.reader.limiter
    limiter.waiting_max = 0
    held = all_slots(limiter)
    probe = asyncio.ensure_future(why_not_ready(database, revision=migrate.head()))
    while not limiter.waiting:  # noqa: ASYNC110  # it signals nothing when a caller joins
        await asyncio.sleep(0.001)

    held.close()

    assert await probe is None


async def test_writers_that_are_stuck_are_none(database: Database):
    """Reads are answered all the same, and a restart would not free a lock."""
    with all_slots(database.writer.limiter):
        assert await why_not_ready(database, revision=migrate.head()) is None


def test_a_database_that_is_down_is_a_reason_that_names_no_host(io_loop: IOLoop):
    database = Database(DatabaseSettings(url="postgresql://app:hush@127.0.0.1:9/nowhere"))

    reason = io_loop.run_sync(lambda: why_not_ready(database, revision="0042"))

    io_loop.run_sync(database.close)
    assert reason == "the database does not answer: the database cannot be reached"


def test_a_database_that_says_nothing_is_one_soon(
    io_loop: IOLoop,
    make_proxy: MakeProxy,
    postgres_cluster: PostgresCluster,
    expect_log: Callable[..., object],
):
    """A probe that takes longer than its asker's patience tells nothing."""
    proxy = make_proxy((postgres_cluster.host, postgres_cluster.port))
    proxy.freeze()
    database = Database(
        DatabaseSettings(url=f"postgresql://a:b@127.0.0.1:{proxy.port}/x", connect_timeout_s=1)
    )

    began = own_time()
    reason = io_loop.run_sync(lambda: why_not_ready(database, revision="0042"))

    assert own_time() - began < CHECK_TIMEOUT_S + 1
    assert reason is not None
    assert reason.startswith("the database does not answer")
    proxy.thaw()
    io_loop.run_sync(database.close)
