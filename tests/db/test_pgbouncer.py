"""Behind PgBouncer nothing outlives its transaction, and everything else is as without it."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

import db.schema.migrate
from conf import DatabaseSettings
from db import Database, Outcome, idempotency
from db.backends.pgbouncer import parsed
from db.errors import ConnectionLost, DeadlinePassed, PoolerInBetween, ReadOnlyViolation, UsageError
from db.health import require_known_pooler, why_not_ready
from db.idempotency import Answer, Key
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.pgbouncer import Bouncer, MakeBouncer
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import StartServer
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.service import create_shelves
from tests.fixtures.waiting import wait_until
from tests.service import model
from tests.service.model import add_book, add_shelf, load_book

pytestmark = [pytest.mark.debian, pytest.mark.gen_test]

LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "search_path")


@pytest.fixture
def database_url(database_url: str) -> str:
    """As elsewhere, with the tables of `tests.service.model`."""
    create_shelves(RawSql(database_url))
    return database_url


@pytest.fixture
def backend() -> str:
    """PgBouncer stands before this one alone."""
    return "postgresql"


@pytest.fixture
def database_settings(database_url: str, bouncer: Bouncer) -> DatabaseSettings:
    """By way of a PgBouncer, with more connections than that has to the server."""
    return DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=5)


def show(session: Session, name: str) -> str:
    return str(session.scalar(text(f"SHOW {name}")))


def limits_on_the_server(bouncer: Bouncer, url: str) -> list[dict[str, Any]]:
    """What holds for the next client: asked through the same PgBouncer, outside of any of our engines."""
    sql = RawSql(bouncer.url_of(url))
    return sql(
        "SELECT name, setting, source FROM pg_settings WHERE source = 'session' AND name NOT IN "
        # These PgBouncer itself keeps for each of its clients.
        "('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')"
    )


async def test_each_database_has_its_own_settings_on_connections_that_they_share(
    database_url: str, make_bouncer: MakeBouncer, io_loop: IOLoop
):
    """One connection to the server, two Databases in turns: neither sees what the other has set."""
    bouncer = make_bouncer(default_pool_size=1)
    url = bouncer.url_of(database_url)
    one = Database(DatabaseSettings(url=url, pooler="pgbouncer", statement_timeout_s=11, lock_timeout_s=1))
    other = Database(
        DatabaseSettings(
            url=url + "?options=-csearch_path%3Dpublic%2Cpg_temp", pooler="pgbouncer", statement_timeout_s=22
        )
    )
    backends = set()

    for _ in range(3):
        for database, expected in (
            (one, ("11s", "1s", "1min", '"$user", public')),
            (other, ("22s", "0", "1min", "public,pg_temp")),
        ):
            for read_only in (False, True):
                async with database.unit_of_work(read_only=read_only) as unit:
                    found = await unit.run(
                        lambda session: tuple(show(session, name) for name in LIMITS), unit.session
                    )
                    backends.add(
                        await unit.run(
                            lambda session: session.scalar(text("SELECT pg_backend_pid()")), unit.session
                        )
                    )
                assert found == expected
        assert limits_on_the_server(bouncer, database_url) == []

    assert len(backends) == 1
    await one.close()
    await other.close()


async def test_settings_cost_no_round_trip(database: Database, database_settings: DatabaseSettings):
    """They are part of the first string of a transaction, as BEGIN is, and of no other."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, *rest: object) -> None:
        sent.append(cursor.query.decode())

    event.listen(database.writer.engine, "after_cursor_execute", note)
    async with database.unit_of_work() as unit:
        await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session)
        await unit.run(lambda session: session.scalar(text("SELECT 2")), unit.session)

    limits = "SET LOCAL statement_timeout = 60000; SET LOCAL idle_in_transaction_session_timeout = 60000; "
    assert sent[:2] == [f"BEGIN; {limits}SELECT 1", "SELECT 2"]


async def test_a_limit_holds_for_the_very_statement_that_sets_it(bouncer: Bouncer, database_url: str):
    settings = DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", statement_timeout_s=0.2)
    database = Database(settings)

    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work() as unit:
            await unit.run(lambda session: session.execute(text("SELECT pg_sleep(5)")), unit.session)

    await database.close()


@pytest.mark.parametrize("snapshot", [False, True], ids=["reads", "snapshot"])
async def test_the_reader_cannot_write(database: Database, sql: RawSql, snapshot: bool):
    for _ in range(2):  # the second time on a connection that has had a transaction
        with pytest.raises(ReadOnlyViolation):
            async with database.unit_of_work(read_only=True, snapshot=snapshot) as unit:
                await unit.run(model.create_book, unit.session)

    assert sql("SELECT id FROM books") == []
    await asyncio.to_thread(add_book, database)  # and the writer, on the same connections to the server, can
    assert len(sql("SELECT id FROM books")) == 1


async def test_the_reader_cannot_write_past_sqlalchemy(database: Database):
    """Neither by the driver's own cursor, as the first thing in a transaction."""

    def write(session: Session) -> None:
        driver: Any = session.connection().connection.dbapi_connection
        with driver.cursor() as cursor:
            cursor.execute("INSERT INTO shelves (name) VALUES ('a')")

    async with database.unit_of_work(read_only=True) as unit:
        with pytest.raises(Exception, match="read-only transaction"):
            await unit.run(write, unit.session)


async def test_the_readers_transaction_is_not_ended_on_the_loop(database: Database):
    """Its ROLLBACK is a round trip, as in AUTOCOMMIT there is none."""
    threads: list[int] = []
    event.listen(database.reader.engine, "rollback", lambda _: threads.append(threading.get_ident()))

    async with database.unit_of_work(read_only=True) as unit:
        await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session)

    assert threads
    assert threading.get_ident() not in threads


async def test_a_snapshot_sees_one_state_throughout(database: Database):
    await asyncio.to_thread(add_shelf, database, "a")
    count = text("SELECT count(*) FROM shelves")

    async with database.unit_of_work(read_only=True, snapshot=True) as unit:
        before = await unit.run(lambda session: session.scalar(count), unit.session)
        await asyncio.to_thread(add_shelf, database, "b")
        after = await unit.run(lambda session: session.scalar(count), unit.session)
    async with database.unit_of_work(read_only=True) as unit:
        later = await unit.run(lambda session: session.scalar(count), unit.session)

    assert (before, after, later) == (1, 1, 2)


async def test_the_export_has_its_cursor_and_its_limits(database: Database):
    """A server-side cursor, in a transaction, after the settings."""
    ids = {await asyncio.to_thread(add_book, database) for _ in range(5)}

    def export(session: Session) -> tuple[set[str], str]:
        pages = list(model.stream_books(session, page_size=2))
        assert [len(page) for page in pages] == [2, 2, 1]
        return {row.id for page in pages for row in page}, show(session, "statement_timeout")

    async with database.unit_of_work(read_only=True, snapshot=True) as unit:
        assert await unit.run(export, unit.session) == (ids, "1min")


async def test_a_running_statement_is_cancelled(database: Database, sql: RawSql):
    """The cancel goes to PgBouncer, which finds the connection to the server that it is meant for."""
    began = time.monotonic()

    with pytest.raises(DeadlinePassed):
        async with database.unit_of_work(deadline_at=began + 0.3) as unit:
            await unit.run(lambda session: session.execute(text("SELECT pg_sleep(30)")), unit.session)

    assert time.monotonic() - began < 2
    running = "SELECT query FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(30)'"
    assert wait_until(lambda: sql(running) == [])


async def test_a_wait_for_pgbouncers_own_pool_ends_at_the_deadline(
    database_url: str, make_bouncer: MakeBouncer, expect_log: ExpectLog
):
    """Its pool is full, and a new connection of ours hangs at its first word: no thread stays behind."""
    bouncer = make_bouncer(default_pool_size=1)
    settings = DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=1)
    holder, database = Database(settings), Database(settings)
    async with holder.unit_of_work() as held:
        await held.run(lambda session: session.execute(text("SELECT 1")), held.session)
        for _ in range(2):
            began = time.monotonic()
            with (
                expect_log("onfinish.db", "its connection is cut", required=False),
                pytest.raises(DeadlinePassed),
            ):
                async with database.unit_of_work(deadline_at=began + 0.3) as unit:
                    await unit.run(lambda session: session.execute(text("SELECT 1")), unit.session)
            assert time.monotonic() - began < 2
            assert database.writer.limiter.taken == 0
    async with database.unit_of_work() as unit:
        assert await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session) == 1

    await holder.close()
    await database.close()
    gc.collect()  # SQLAlchemy's record of a connection that failed at its first word hangs on its own error


async def test_what_goes_over_the_wire_sets_nothing_for_longer_than_a_transaction(
    own_postgres_cluster: Callable[..., PostgresCluster], request: pytest.FixtureRequest
):
    """Every kind of work once, pings included, as the server has logged it."""
    cluster = own_postgres_cluster(options={"log_statement": "all", "log_line_prefix": "%a "})
    name = cluster.create_database()
    bouncer = Bouncer(cluster)
    request.addfinalizer(bouncer.stop)
    settings = DatabaseSettings(
        url=bouncer.url_of(cluster.url_for(name)), pooler="pgbouncer", pool_ping_after_s=0, lock_timeout_s=5
    )
    db.schema.migrate.upgrade(settings)
    create_shelves(RawSql(cluster.url_for(name)))
    database = Database(settings)
    for _ in range(2):
        await asyncio.to_thread(add_shelf, database, f"a {_}")
        book_id = await asyncio.to_thread(add_book, database)
        await asyncio.to_thread(load_book, database, book_id)
        async with database.unit_of_work(read_only=True, snapshot=True) as unit:
            await unit.run(
                lambda session: list(model.stream_books(session, page_size=2)),
                unit.session,
            )
    await database.close()

    logged = re.findall(r"^onfinish LOG:  statement: (.*)$", cluster.log_text(), re.MULTILINE)
    settings_made = {
        each.strip()
        for line in logged
        for each in line.split(";")
        if re.match(r"\s*(SET|RESET|SELECT set_config)", each)
    }
    # PgBouncer's own, for what it keeps of each client.
    settings_made -= {"SET application_name='onfinish'", "SET TimeZone='UTC'"}
    assert any("pg_advisory_xact_lock" in line for line in logged)
    assert any("DECLARE" in line for line in logged)
    assert any(line.startswith("BEGIN READ ONLY") for line in logged)
    assert any(line.startswith("SET LOCAL") for line in logged)
    assert {each for each in settings_made if not each.startswith("SET LOCAL ")} == set()


async def test_migrations_work(postgres_cluster: PostgresCluster, database_url: str, bouncer: Bouncer):
    """Two at once, and each sees itself through to the end."""
    name = postgres_cluster.create_database()
    settings = DatabaseSettings(url=bouncer.url_of(postgres_cluster.url_for(name)), pooler="pgbouncer")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: db.schema.migrate.upgrade(settings), range(2)))

    assert db.schema.migrate.drift(settings) == []
    bouncer.stop()
    postgres_cluster.drop_database(name)


async def test_an_idempotency_key_is_claimed_once(database: Database):
    """The second waits for the first, over a connection to the server of its own, and is given its answer."""
    key, answer = Key("POST", "/books", "k"), Answer(201, {"Location": "/books/1"}, b"{}")

    def claim(session: Session) -> Answer | None:
        return idempotency.claim_key(session, key=key, request_body=b"{}")

    def claim_in_a_scope() -> Answer | None:
        with database.session_scope() as session:
            return claim(session)

    async with database.unit_of_work() as unit:
        assert await unit.run(claim, unit.session) is None
        second = asyncio.get_running_loop().run_in_executor(None, claim_in_a_scope)
        await asyncio.sleep(0.2)
        assert not second.done()
        await unit.run(lambda session: idempotency.keep_answer(session, key=key, answer=answer), unit.session)

    assert await second == answer


@pytest.fixture
def proxy(bouncer: Bouncer, make_proxy: MakeProxy) -> Proxy:
    """Between the service and its PgBouncer."""
    return make_proxy(("127.0.0.1", bouncer.port))


@pytest.mark.parametrize("delivered", [True, False], ids=["answer lost", "never arrived"])
async def test_the_commit_marker_tells_what_became_of_a_commit(
    database_url: str, bouncer: Bouncer, proxy: Proxy, sql: RawSql, expect_log: ExpectLog, delivered: bool
):
    through = bouncer.url_of(database_url).replace(f":{bouncer.port}/", f":{proxy.port}/")
    database = Database(DatabaseSettings(url=through, pooler="pgbouncer", pool_size=1))
    await asyncio.to_thread(add_shelf, database, "warm")
    proxy.cut_at(b"COMMIT", delivered=delivered)
    unit = database.unit_of_work()
    await unit.run(model.create_book, unit.session)

    with expect_log("onfinish.db", "was applied" if delivered else "was not applied"):
        if delivered:
            await unit.settle(keep=True)
        else:
            with pytest.raises(ConnectionLost):
                await unit.settle(keep=True)

    assert unit.outcome is (Outcome.COMMITTED if delivered else Outcome.ROLLED_BACK)
    assert len(sql("SELECT id FROM books")) == delivered
    await database.close()


async def test_connections_of_ours_have_a_commit_marker_each_however_few_the_server_has(
    database_url: str, make_bouncer: MakeBouncer, sql: RawSql
):
    """Two that share one connection to the server write two rows: an outcome is that of one of ours."""
    bouncer = make_bouncer(default_pool_size=1)
    settings = DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=1)
    one, other = Database(settings), Database(settings)
    for at in range(2):
        await asyncio.to_thread(add_shelf, one, f"one {at}")
        await asyncio.to_thread(add_shelf, other, f"other {at}")

    assert len(sql("SELECT * FROM commit_witness")) == 2
    await one.close()
    await other.close()


async def test_a_lost_server_behind_it_is_a_connection_lost(database_url: str, bouncer: Bouncer, sql: RawSql):
    database = Database(DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=1))

    with pytest.raises(ConnectionLost):
        async with database.unit_of_work() as unit:
            pid = await unit.run(
                lambda session: session.scalar(text("SELECT pg_backend_pid()")), unit.session
            )
            sql("SELECT pg_terminate_backend(:pid)", pid=pid)
            await asyncio.sleep(0.1)
            await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session)
    await asyncio.to_thread(add_shelf, database, "and the next works")

    await database.close()


async def test_it_is_ready(database: Database):
    assert await why_not_ready(database, revision=db.schema.migrate.head()) is None
    await require_known_pooler(database)


# -- a PgBouncer that the settings say nothing of


async def test_without_the_setting_the_refusal_names_it(database_url: str, bouncer: Bouncer):
    database = Database(DatabaseSettings(url=bouncer.url_of(database_url)))

    with pytest.raises(PoolerInBetween, match=r'set database\.pooler = "pgbouncer"'):
        await require_known_pooler(database)

    await database.close()


async def test_one_that_drops_the_options_is_noticed(database_url: str, make_bouncer: MakeBouncer):
    """The reader could write, and nothing else would tell."""
    bouncer = make_bouncer(ignore_startup_parameters="options")
    database = Database(DatabaseSettings(url=bouncer.url_of(database_url)))

    with pytest.raises(PoolerInBetween, match="have no effect"):
        await require_known_pooler(database)

    await database.close()


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_serving_without_the_setting_fails_at_the_start(
    database_url: str, bouncer: Bouncer, start_server: StartServer, processes: str
):
    process = start_server("--processes", processes, url=bouncer.url_of(database_url), listens=False)

    assert process.wait() == 1
    assert 'set database.pooler = "pgbouncer"' in process.err
    assert "unsupported startup parameter" in process.err
    assert "listens" not in process.out


async def test_serving_with_the_setting_works(database_url: str, bouncer: Bouncer, start_server: StartServer):
    process = start_server("--database-pooler", "pgbouncer", url=bouncer.url_of(database_url))

    created = process.request("POST", "/shelves", {"name": "a"})
    assert created.status == 201
    assert process.request("GET", "/shelves").body["items"][0]["name"] == "a"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-c search_path=a,b", [("search_path", "a,b")]),
        ("-csearch_path=a --work-mem=1MB", [("search_path", "a"), ("work_mem", "1MB")]),
        (r"-c search_path=\"a\ b\",c  -c x.y=100%", [("search_path", '"a b",c'), ("x.y", "100%")]),
        ("", []),
    ],
)
def test_options_are_read_as_the_server_reads_them(options: str, expected: list[tuple[str, str]]):
    assert parsed(options) == expected


@pytest.mark.parametrize("options", ["-d 5", "-c search_path", "search_path=a", "-c a=b c"])
def test_options_that_are_no_settings_are_refused(options: str):
    with pytest.raises(ValueError, match="only settings"):
        parsed(options)


@pytest.mark.parametrize(
    "statement",
    [
        "SET app.tenant = '7'",
        "SELECT set_config('app.tenant', '7', false)",
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE mine (n integer)",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "LISTEN mine",
        "PREPARE mine AS SELECT 1",
    ],
)
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
async def test_what_would_reach_another_client_is_refused(
    statement: str, read_only: bool, database: Database, database_url: str, bouncer: Bouncer
):
    """The connection to the server is not ours to close. The message says what can be had instead."""
    with pytest.raises(UsageError, match=r"POST Some: .*SET LOCAL.*set_config.*pg_advisory_xact_lock"):
        async with database.unit_of_work(label="POST Some", read_only=read_only) as unit:
            await unit.run(lambda session: session.scalar(text("SELECT 1")), unit.session)
            await unit.run(lambda session: session.execute(text(statement)), unit.session)

    assert limits_on_the_server(bouncer, database_url) == []


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL app.tenant = '7'",
        "SELECT set_config('app.tenant', '7', true)",
        "SELECT pg_advisory_xact_lock(7)",
        "CREATE TEMP TABLE mine (n integer) ON COMMIT DROP",
    ],
)
async def test_what_ends_with_the_transaction_is_allowed(statement: str, database: Database):
    async with database.unit_of_work() as unit:
        await unit.run(lambda session: session.execute(text(statement)), unit.session)

    assert unit.outcome is Outcome.COMMITTED
