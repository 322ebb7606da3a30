"""What is the asyncio drivers' own; what all drivers promise is tested where it is, see ``every_driver``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time

import pytest
from sqlalchemy import make_url as parse_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database, Outcome, make_engine
from db.backends.choose import backend_for
from db.engines.engine import blocking, make_url
from db.errors import DatabaseError, DeadlinePassed, Refused, TransactionAborted
from tests.db.counters import add, create_counters, read, sleep, value
from tests.fixtures.backends import ASYNC, GREENLETS
from tests.fixtures.databases import RawSql
from tests.fixtures.pgbouncer import Bouncer
from tests.fixtures.server import Client
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.gen_test

every_one = pytest.mark.parametrize("backend", ASYNC + GREENLETS, indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ASYNC[:2] + GREENLETS, indirect=True)


@every_one
async def test_work_is_done_on_the_loops_own_thread_and_the_loop_goes_on(database: Database, sql: RawSql):
    create_counters(sql)
    seen: list[str] = []
    turns = 0

    def work(session: Session) -> int:
        seen.append(threading.current_thread().name)
        return read(session)

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(work, unit.session)
    counting.cancel()

    assert seen == [threading.current_thread().name]
    assert turns > 0


@every_one
async def test_units_overlap_and_are_kept_each_by_itself(database: Database, sql: RawSql):
    create_counters(sql)

    async def request(fails: bool) -> None:
        async with database.unit_of_work() as unit:
            await unit.run(add, unit.session)
            await asyncio.sleep(0.001)
            if fails:
                raise LookupError
            await unit.run(read, unit.session)

    ends = await asyncio.gather(*(request(n % 3 == 0) for n in range(30)), return_exceptions=True)

    assert sum(isinstance(end, LookupError) for end in ends) == 10
    assert [end for end in ends if end is not None and not isinstance(end, LookupError)] == []
    assert value(sql) == 20


@every_one
async def test_scopes_and_jobs_work_in_threads_beside_it(database: Database, sql: RawSql):
    """`session_scope` takes a slot as any unit does, and a driver that blocks."""
    create_counters(sql)

    def job() -> None:
        with database.session_scope() as session:
            add(session)

    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(read, unit.session)
        await asyncio.to_thread(job)

    assert value(sql) == 1


@on_postgresql
async def test_a_scope_leaves_no_more_connections_than_there_are_slots(
    database_settings: DatabaseSettings, sql: RawSql
):
    """Its driver is another one, with a pool of its own: of both together so many stay open."""
    database = Database(database_settings.model_copy(update={"pool_size": 2, "max_overflow": 0}))
    ours = (
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE application_name = 'onfinish' AND datname = current_database()"
    )

    async def work() -> None:
        async with database.unit_of_work() as unit:
            await unit.run(sleep, unit.session, 0.05)

    def scope() -> None:
        with database.session_scope() as session:
            session.execute(text("SELECT 1"))

    await asyncio.to_thread(scope)
    await asyncio.to_thread(scope)
    alone = database.writer.scopes.pool.checkedin()  # type: ignore[attr-defined]
    await asyncio.gather(work(), work())
    await asyncio.to_thread(scope)

    assert alone == 1  # a script's connection is used again
    assert wait_until(lambda: sql(ours) == [{"n": 2}]), sql(ours)
    await database.close()


@on_postgresql
async def test_connections_at_rest_are_closed_from_the_jobs_thread(database_settings: DatabaseSettings):
    settings = database_settings.model_copy(update={"pool_idle_s": 0.05, "pool_min": 1})
    database = Database(settings)

    async def look() -> None:
        async with database.unit_of_work(read_only=True) as unit:
            await unit.run(lambda session: session.execute(text("SELECT pg_sleep(0.05)")), unit.session)

    await asyncio.gather(look(), look(), look())
    await asyncio.sleep(0.1)

    assert await asyncio.to_thread(database.close_idle) == 2
    await look()
    await database.close()


@on_postgresql
async def test_a_deadline_cancels_the_statement_at_the_server(database: Database, sql: RawSql):
    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work(deadline_at=time.monotonic() + 0.2) as unit:
            await unit.run(sleep, unit.session, 60)

    assert unit.outcome is Outcome.ROLLED_BACK
    running = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    assert wait_until(lambda: sql(running) == [])


@on_postgresql
async def test_a_caller_that_is_cancelled_breaks_nothing(database: Database, sql: RawSql):
    """The work runs on to its end, as it would in a thread, and the unit goes on after it."""
    create_counters(sql)
    async with database.unit_of_work() as unit:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(unit.run(sleep, unit.session, 0.3), 0.05)
        await asyncio.sleep(0.6)
        await unit.run(add, unit.session)

    assert value(sql) == 1


@on_postgresql
@pytest.mark.usefixtures("shelves")
@pytest.mark.parametrize("commit_witness", [True, False])
async def test_an_error_that_was_caught_is_no_commit(
    database_settings: DatabaseSettings, sql: RawSql, commit_witness: bool
):
    """PostgreSQL answers COMMIT with ROLLBACK then, and no error."""
    create_counters(sql)
    database = Database(database_settings.model_copy(update={"commit_witness": commit_witness}))

    def caught(session: Session) -> None:
        add(session)
        with contextlib.suppress(IntegrityError):
            session.execute(text("INSERT INTO shelves (id, name) VALUES (1, 'a'), (1, 'b')"))

    with pytest.raises(TransactionAborted):
        async with database.unit_of_work() as unit:
            await unit.run(caught, unit.session)
    await database.close()

    assert value(sql) == 0


@on_postgresql
@pytest.mark.usefixtures("shelves")
async def test_an_error_in_a_savepoint_leaves_the_rest(database_settings: DatabaseSettings, sql: RawSql):
    create_counters(sql)
    database = Database(database_settings.model_copy(update={"commit_witness": False}))

    def guarded(session: Session) -> None:
        add(session)
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(text("INSERT INTO shelves (id, name) VALUES (1, 'a'), (1, 'b')"))

    async with database.unit_of_work() as unit:
        await unit.run(guarded, unit.session)
    await database.close()

    assert value(sql) == 1


@on_postgresql
@pytest.mark.usefixtures("shelves")
async def test_a_refusal_names_its_constraint(database: Database):
    def twice(session: Session) -> None:
        session.execute(text("INSERT INTO shelves (name) VALUES ('a'), ('a')"))

    with pytest.raises(Refused, match="name"):
        async with database.unit_of_work() as unit:
            await unit.run(twice, unit.session)


@pytest.mark.parametrize("scheme", ASYNC[:2])
async def test_a_port_without_a_server_is_unreachable(scheme: str):
    database = Database(DatabaseSettings(url=f"{scheme}://me@127.0.0.1:1/x", connect_timeout_s=2))
    with pytest.raises(DatabaseError, match="cannot be reached"):
        async with database.unit_of_work(read_only=True) as unit:
            await unit.run(read, unit.session)
    await database.close()


@pytest.mark.debian
@on_postgresql
async def test_behind_pgbouncer_no_statement_is_prepared_by_name(
    database_url: str, bouncer: Bouncer, sql: RawSql
):
    """Five connections of ours share two to the server, and none finds what another has prepared."""
    create_counters(sql)

    def named_statements(session: Session) -> int:
        return int(session.scalar(text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")))

    database = Database(DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=5))

    async def request(number: int) -> None:
        async with database.unit_of_work(read_only=bool(number % 2)) as unit:
            await unit.run(read if number % 2 else add, unit.session)
            await unit.run(read, unit.session)
            assert await unit.run(named_statements, unit.session) == 0

    for _ in range(3):
        await asyncio.gather(*(request(number) for number in range(40)))
    await database.close()

    assert value(sql) == 60


def test_a_url_means_the_same_for_asyncpg_and_for_libpq():
    url = "postgresql+asyncpg://me:secret@db/x?sslmode=verify-full&sslrootcert=/ca.pem&options=-csearch_path%3Da"
    settings = DatabaseSettings(url=url, application_name="here", connect_timeout_s=3)
    dialect = backend_for(parse_url(url))

    given = dialect.connect_args(settings, "reader")

    assert given["dsn"] == "postgresql:///?sslmode=verify-full&sslrootcert=%2Fca.pem"
    assert given["timeout"] == 3
    assert given["server_settings"]["options"] == "-csearch_path=a"
    assert given["server_settings"]["default_transaction_read_only"] == "on"
    assert given["server_settings"]["application_name"] == "here"
    assert dialect.engine_url().query == {}
    twin = make_url(blocking(settings))
    assert (twin.drivername, twin.query["sslmode"]) == ("postgresql+psycopg2", "verify-full")


def test_what_an_extra_brings_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ModuleNotFoundError, match="asyncpg"):
        make_engine(DatabaseSettings(url="postgresql+asyncpg://me@h/x"))


def test_sqlite_in_memory_is_not_for_aiosqlite():
    with pytest.raises(ValueError, match="in memory is not supported"):
        Database(DatabaseSettings(url="sqlite+aiosqlite://"))


@on_postgresql
async def test_a_column_that_changes_its_type_under_way_costs_no_request(client: Client, sql: RawSql):
    """A connection keeps plans that it prepared before: what meets a stale one runs again on a fresh one."""
    created = (await client.post("/shelves", {"name": "a"})).json()
    for number in range(12):  # psycopg prepares a statement when it has come five times
        await client.get("/shelves")
        await client.patch(f"/shelves/{created['id']}", {"name": f"{number}"})
    sql("ALTER TABLE shelves ALTER COLUMN name TYPE text")

    listed = await client.get("/shelves")
    changed = await client.patch(f"/shelves/{created['id']}", {"name": "changed"})

    assert (listed.code, changed.code) == (200, 200)
    assert changed.json()["name"] == "changed"
