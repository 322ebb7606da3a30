"""A COMMIT that waits for a synchronous standby: the wait is cancelled, or never ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import Settings
from db import Database, health
from db.errors import OutcomeUnknown
from db.observer import Observer
from tests.faults.conftest import POOL_SIZE
from tests.faults.ledger import Ledger
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import Proxy
from tests.fixtures.server import Answer, Client
from tests.fixtures.waiting import wait_until

DRIVERS = ["postgresql+psycopg2", "postgresql+asyncpg", "postgresql+psycopg"]

pytestmark = [
    pytest.mark.gen_test(timeout=40),
    pytest.mark.usefixtures("told_in_the_log"),
    pytest.mark.parametrize("drivername", DRIVERS),
]

WAITING = "wait_event = 'SyncRep' AND backend_type = 'client backend'"

SetStandbys = Callable[[str], None]


@pytest.fixture
def set_standbys(cluster: PostgresCluster) -> Iterator[SetStandbys]:
    """``set_standbys("absent")``: from now on COMMIT waits for a standby of that name; "" for none."""
    yield cluster.set_synchronous_names
    cluster.set_synchronous_names("")


@pytest.fixture
def waiting(cluster: PostgresCluster) -> Callable[[], list[int]]:
    """The ids of the server's sessions that wait for a standby."""

    def look() -> list[int]:
        with cluster.admin_connection() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT pid FROM pg_stat_activity WHERE {WAITING}")
            return [pid for (pid,) in cursor.fetchall()]

    return look


@pytest.fixture
def end_waits(cluster: PostgresCluster, waiting: Callable[[], list[int]]) -> Callable[[str], None]:
    """``end_waits("pg_cancel_backend")``, as an administrator does, once there is one to end."""

    def end(how: str) -> None:
        assert wait_until(lambda: bool(waiting()))
        with cluster.admin_connection() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {how}(pid) FROM pg_stat_activity WHERE {WAITING}")

    return end


@pytest.fixture
def further() -> dict[str, object]:
    """Further settings of the service's database; a test may have some."""
    return {}


@pytest.fixture
def settings(settings: Settings, further: dict[str, object]) -> Settings:
    database = settings.database.model_copy(update=further)
    return settings.model_copy(update={"database": database})


class Left(Observer):
    """COMMITs that hang at the server, and those that no standby has. Lives as long as its database."""

    count = 0
    unreplicated_count = 0

    def left(self, change: int) -> None:
        self.count += change

    def unreplicated(self) -> None:
        self.unreplicated_count += 1


@pytest.fixture
def observer() -> Left:
    return Left()


@pytest.fixture
def service_database(settings: Settings, observer: Left, proxy: Proxy, io_loop: IOLoop) -> Iterator[Database]:
    database = Database(settings.database, observer)
    yield database
    io_loop.run_sync(database.close)


def write_a_note(session: Session) -> None:
    session.execute(text("INSERT INTO notes VALUES ('a')"))


def read_notes(session: Session) -> None:
    session.execute(text("SELECT * FROM notes"))


async def post_until(
    service: Client, ledger: Ledger, end_waits: Callable[[str], None], how: str
) -> tuple[str, Answer]:
    book_id = ledger.new_id()
    asked = asyncio.ensure_future(service.post("/books", ledger.resource.new(book_id, 1)))
    await asyncio.to_thread(end_waits, how)
    return book_id, await asked


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_wait_for_a_standby_that_is_ended_is_no_success(
    service: Client,
    ledger: Ledger,
    sql: RawSql,
    set_standbys: SetStandbys,
    end_waits: Callable[[str], None],
    how: str,
    caplog: pytest.LogCaptureFixture,
):
    """The row is there, and is lost if the server is: the client is told neither that it is kept nor that
    it is not. The next write is not taken for one of a server that has lost this one."""
    set_standbys("absent")

    book_id, answer = await post_until(service, ledger, end_waits, how)

    assert (answer.code, answer.json()["outcome"]) == (503, "unknown")
    assert [row["id"] for row in sql("SELECT id FROM books")] == [book_id]
    set_standbys("")
    assert (await service.post("/books", ledger.resource.new(ledger.new_id(), 1))).code == 201
    assert "has lost a transaction" not in caplog.text


@pytest.mark.parametrize("further", [{"unreplicated_commit": "kept"}])
async def test_a_wait_that_is_cancelled_may_be_taken_for_a_success_with_a_warning(
    service: Client,
    ledger: Ledger,
    set_standbys: SetStandbys,
    end_waits: Callable[[str], None],
    expect_log: ExpectLog,
    observer: Left,
):
    set_standbys("absent")

    with expect_log("onfinish.db", "wait for a synchronous standby was cancelled"):
        _, answer = await post_until(service, ledger, end_waits, "pg_cancel_backend")

    assert answer.code == 201
    assert observer.unreplicated_count == 1


@pytest.mark.parametrize("further", [{"unreplicated_commit": name} for name in ("unknown", "kept")], ids=str)
async def test_a_thread_is_told_the_same_of_a_wait_that_is_cancelled(
    service_database: Database,
    sql: RawSql,
    set_standbys: SetStandbys,
    end_waits: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    further: dict[str, object],
    observer: Left,
):
    """In scopes each driver's place is psycopg2's, which blocks."""
    sql("CREATE TABLE notes (body text)")
    set_standbys("absent")

    def write() -> str:
        try:
            with service_database.session_scope() as session:
                write_a_note(session)
        except OutcomeUnknown:
            return "unknown"
        return "kept"

    writing = asyncio.ensure_future(asyncio.to_thread(write))
    await asyncio.to_thread(end_waits, "pg_cancel_backend")

    assert await writing == further["unreplicated_commit"]
    assert observer.unreplicated_count == 1
    warnings = [each.message for each in caplog.records if "standby was cancelled" in each.message]
    assert len(warnings) == (further["unreplicated_commit"] == "kept")


async def test_a_warning_of_a_trigger_at_commit_is_no_cancelled_wait(
    service: Client, ledger: Ledger, sql: RawSql
):
    """It comes with the same SQLSTATE, 01000, at the same moment."""
    sql.run_each(
        [
            "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE WARNING 'canceling wait for synchronous replication due to user request'; "
            "RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER warns AFTER INSERT ON books DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION warn()",
        ]
    )

    answer = await service.post("/books", ledger.resource.new(ledger.new_id(), 1))

    assert answer.code == 201


async def test_commits_that_hang_keep_their_slots_until_the_server_lets_go(
    service: Client,
    service_database: Database,
    observer: Left,
    ledger: Ledger,
    set_standbys: SetStandbys,
    waiting: Callable[[], list[int]],
):
    """Else each request leaves a session at the server, which waits there without a client, and the pool
    connects anew for the next: up to the server's max_connections."""
    set_standbys("absent")

    for _ in range(3):
        answers = await asyncio.gather(
            *(service.post("/books", ledger.resource.new(ledger.new_id(), 1)) for _ in range(POOL_SIZE + 1))
        )
    left, counted = await asyncio.to_thread(waiting), observer.count
    ready = await service.get("/readyz?work=writes")
    reads = await service.get("/readyz?work=reads")
    set_standbys("")
    assert await asyncio.to_thread(
        wait_until, lambda: not service_database.writer.limiter.taken, timeout_s=10
    )
    ready_again = await service.get("/readyz?work=writes")
    created = await service.post("/books", ledger.resource.new(ledger.new_id(), 1))

    assert {answer.code for answer in answers} <= {503, 504}
    assert (len(left), counted, observer.count) == (POOL_SIZE, POOL_SIZE, 0)
    assert (ready.code, reads.code) == (503, 200)
    assert "COMMIT" in ready.body.decode()
    assert (ready_again.code, created.code) == (200, 201)


async def test_an_instance_that_has_written_nothing_sees_that_no_commit_succeeds(
    service: Client,
    cluster: PostgresCluster,
    database_name: str,
    set_standbys: SetStandbys,
    waiting: Callable[[], list[int]],
):
    """Another instance's COMMIT hangs for seconds. Another application may wait for more."""
    set_standbys("absent")

    def commit(database: str, application: str) -> None:
        connection = psycopg2.connect(cluster.url_for(database), application_name=application)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id(); SELECT pg_logical_emit_message(true, '', '')")
            connection.commit()

    async def hang(*sessions: tuple[str, str]) -> list[asyncio.Task[None]]:
        before = len(await asyncio.to_thread(waiting))
        tasks = [asyncio.create_task(asyncio.to_thread(commit, *each)) for each in sessions]
        assert await asyncio.to_thread(wait_until, lambda: len(waiting()) == before + len(tasks))
        await asyncio.sleep(2.5)
        return tasks

    others = await hang(("postgres", "onfinish"), (database_name, "psql"))
    beside_others = await service.get("/readyz?work=writes")
    instances = await hang((database_name, "onfinish 4711"))
    ready = await service.get("/readyz?work=writes")
    set_standbys("")
    await asyncio.gather(*others, *instances)

    assert (beside_others.code, ready.code) == (200, 503)
    assert (await service.get("/readyz?work=writes")).code == 200


async def test_a_pool_that_is_full_of_commits_that_hang_is_not_ready_for_writes(
    service_database: Database,
    sql: RawSql,
    set_standbys: SetStandbys,
    monkeypatch: pytest.MonkeyPatch,
):
    """No slot is free to ask with, and none is cut before its deadline."""
    sql("CREATE TABLE notes (body text)")
    set_standbys("absent")
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.3)

    async def write() -> None:
        async with service_database.unit_of_work() as unit:
            await unit.run(write_a_note, unit.session)

    writing = [asyncio.create_task(write()) for _ in range(POOL_SIZE)]
    await asyncio.sleep(2.5)
    found = await health.faults_of(service_database, revision=None, work="writes")
    set_standbys("")
    await asyncio.gather(*writing)

    assert [each.told for each in found] == [
        f"no COMMIT succeeds: {POOL_SIZE} wait for a synchronous standby"
    ]


async def test_a_commit_that_hangs_is_kept_once_whatever_follows_its_unit(
    service_database: Database, observer: Left, sql: RawSql, set_standbys: SetStandbys
):
    """What follows an unknown outcome gives the slot back before it begins, and the unit once more."""
    sql("CREATE TABLE notes (body text)")
    set_standbys("absent")
    unit = service_database.unit_of_work(deadline_at=time.monotonic() + 1.0)

    with pytest.raises(OutcomeUnknown):
        async with unit:
            await unit.run(write_a_note, unit.session)
            await unit.settle(keep=True, follow_ups=lambda fault: [read_notes, read_notes])
    kept, count = len(service_database.registry.left), observer.count

    assert (kept, count, service_database.writer.limiter.taken) == (1, 1, 1)


async def test_a_follow_up_whose_commit_hangs_keeps_the_slot_that_it_was_lent(
    service_database: Database,
    sql: RawSql,
    set_standbys: SetStandbys,
    waiting: Callable[[], list[int]],
):
    sql("CREATE TABLE notes (body text)")
    set_standbys("absent")

    async with service_database.unit_of_work(deadline_at=time.monotonic() + 1.0) as unit:
        await unit.run(read_notes, unit.session)
        await unit.settle(keep=True, follow_ups=lambda fault: [write_a_note])
    taken, left = service_database.writer.limiter.taken, len(await asyncio.to_thread(waiting))
    set_standbys("")

    assert (taken, left) == (1, 1)
    assert await asyncio.to_thread(
        wait_until, lambda: not service_database.writer.limiter.taken, timeout_s=10
    )
