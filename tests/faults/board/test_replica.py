"""Reads from a replica: what goes where, what a client may not read yet, and what happens without it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import Settings, load_settings
from db import Database
from db.doctor import examine as checkup
from db.doctor.findings import Plan
from db.engines.engine import make_url
from handlers import ApiHandler
from server.app import make_app
from tests.fixtures.clock import own_time
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.server import Client, Serve
from tests.fixtures.standby import Standby, migrated, standby_of
from tests.fixtures.waiting import wait_until
from tests.handlers.waiting import until as has_happened

pytestmark = pytest.mark.gen_test(timeout=60)

NAME = "board"
PLAN = Plan(processes=1, production=False, request_timeout_s=30)
CAUGHT_UP_S = 15.0
TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresCluster]:
    with migrated(NAME) as primary:
        yield primary


@pytest.fixture(scope="module")
def standby(primary: PostgresCluster) -> Iterator[Standby]:
    """An asynchronous one, as replicas for reads are."""
    with standby_of(primary) as standby:
        yield standby


@pytest.fixture(params=["psycopg2", "asyncpg"])
def settings(request: pytest.FixtureRequest, primary: PostgresCluster, standby: Standby) -> Settings:
    def url(cluster: PostgresCluster) -> str:
        return cluster.url_for(NAME).replace("postgresql://", f"postgresql+{request.param}://", 1)

    return load_settings(
        {
            "environment": "testing",
            "database.url": url(primary),
            "database.reader_url": url(standby),
            "database.pool_size": 3,
            "database.connect_timeout_s": 2,
        },
        environ={},
    )


@pytest.fixture
def service_database(settings: Settings, io_loop: IOLoop) -> Iterator[Database]:
    database = Database(settings.database)
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def application(settings: Settings, service_database: Database) -> Application:
    return make_app(settings, service_database)


@pytest.fixture
def impatient(standby: Standby) -> Iterator[None]:
    """The standby cancels at once what is in the way of its replay."""

    def alter(how: str) -> None:
        with standby.admin_connection() as connection, connection.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM {how}")
            cursor.execute("SELECT pg_reload_conf()")

    alter("SET max_standby_streaming_delay = '50ms'")
    yield
    alter("RESET max_standby_streaming_delay")


@pytest.fixture
def service(application: Application, serve: Serve) -> Client:
    return serve(application)


class Replay:
    """What the standby does with what it has received. Lives as long as a test."""

    def __init__(self, standby: Standby) -> None:
        self._standby = standby

    def __enter__(self) -> None:
        self._do("SELECT pg_wal_replay_pause()")

    def __exit__(self, *error: object) -> None:
        self._do("SELECT pg_wal_replay_resume()")

    def _do(self, sql: str) -> None:
        with self._standby.admin_connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql)


async def until(asked: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until the answer is yes."""
    give_up_at = time.monotonic() + CAUGHT_UP_S
    while not await asked():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        await asyncio.sleep(0.02)


def is_standby(session: Session) -> bool:
    return bool(session.scalar(text("SELECT pg_is_in_recovery()")))


async def test_reads_go_to_the_replica_and_writes_to_the_database(service_database: Database):
    async with service_database.unit_of_work(read_only=True) as unit:
        read = await unit.run(is_standby, unit.session)
    async with service_database.unit_of_work(read_only=True, snapshot=True) as unit:
        snapshot = await unit.run(is_standby, unit.session)
    async with service_database.unit_of_work() as unit:
        written = await unit.run(is_standby, unit.session)

    def in_scripts() -> tuple[bool, bool]:
        with service_database.session_scope(read_only=True) as session:
            reads = is_standby(session)
        with service_database.session_scope() as session:
            return reads, is_standby(session)

    assert (read, snapshot, written) == (True, True, False)
    assert await asyncio.to_thread(in_scripts) == (True, False)


async def test_what_was_written_is_read_there_a_moment_later(service: Client):
    made = (await service.post("/tasks", TASK)).json()

    async def there() -> bool:
        return (await service.get(f"/tasks/{made['id']}")).code == 200

    await until(there)
    exported = [json.loads(line) for line in (await service.get("/tasks/export")).body.splitlines()]

    assert (await service.get(f"/tasks/{made['id']}")).json() == made
    assert made in exported


async def test_a_client_may_not_read_its_own_last_write(service: Client, standby: Standby):
    """The warning that stands beside the setting is true; what is written again begins with what there is."""
    with Replay(standby):
        made = (await service.post("/tasks", TASK)).json()
        read = await service.get(f"/tasks/{made['id']}")
        exported = (await service.get("/tasks/export")).body
        changed = await service.patch(f"/tasks/{made['id']}", {"change_id": 7})

    async def there() -> bool:
        answer = await service.get(f"/tasks/{made['id']}")
        return answer.code == 200 and answer.json()["change_id"] == 7

    assert read.code == 404
    assert made["id"].encode() not in exported
    assert changed.json()["version"] == 2
    await until(there)


async def test_a_write_from_a_get_is_refused_there_too(
    service_database: Database, serve: Serve, expect_log: ExpectLog
):
    class Writes(ApiHandler):
        async def get(self) -> None:
            await self.run(lambda session: session.execute(text("DELETE FROM tasks")), self.session)

    client = serve(Application([("/", Writes)], database=service_database))
    with (
        expect_log("onfinish", r"GET Writes.*was refused by the database"),
        expect_log("tornado.access", r"^500 GET /"),
    ):
        answer = await client.get("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")


@pytest.mark.usefixtures("impatient")
async def test_a_read_that_is_in_the_way_of_the_replay_runs_again(
    service_database: Database, service: Client, primary: PostgresCluster, serve: Serve
):
    """The standby cancels it (40001); the next attempt is answered."""
    made = (await service.post("/tasks", TASK)).json()
    attempts: list[int] = []

    def reads_slowly(session: Session) -> int:
        attempts.append(1)
        count = session.scalar(text("SELECT count(*) FROM tasks"))
        if len(attempts) == 1:
            session.execute(text("SELECT pg_sleep(20)"))
        return int(count or 0)

    class Slow(ApiHandler):
        snapshot = True

        async def get(self) -> None:
            self.write_json({"count": await self.run(reads_slowly, self.session)})

    client = serve(Application([("/", Slow)], database=service_database))
    asked = asyncio.ensure_future(client.get("/"))
    await has_happened(lambda: attempts)
    await asyncio.sleep(0.2)  # it sleeps in the database by then
    await service.request("DELETE", f"/tasks/{made['id']}")
    with primary.admin_connection(NAME) as connection, connection.cursor() as cursor:
        cursor.execute("VACUUM (FREEZE) tasks")

    answer = await asked

    assert (answer.code, len(attempts)) == (200, 2)


async def test_without_a_primary_it_is_ready_for_reads_and_not_for_writes(
    settings: Settings, standby: Standby, serve: Serve, io_loop: IOLoop, expect_log: ExpectLog
):
    """As during a failover: what the URL names takes no writes."""
    drivername = make_url(settings.database).drivername
    url = standby.url_for(NAME).replace("postgresql://", f"{drivername}://", 1)
    database = Database(settings.database.model_copy(update={"url": SecretStr(url)}))
    client = serve(make_app(settings, database))

    with expect_log("onfinish.handlers", "^not ready"), expect_log("tornado.access", "^503 GET /readyz "):
        found = {work: await client.get(f"/readyz{work}") for work in ("?work=reads", "?work=writes", "")}
    wrong = await client.get("/readyz?work=all")
    await database.close()

    assert {work: answer.code for work, answer in found.items()} == {
        "?work=reads": 200,
        "?work=writes": 503,
        "": 503,
    }
    assert found[""].json()["reason"] == "primary: the database takes no writes at the moment"
    assert wrong.code == 400


async def test_without_the_replica_reads_are_refused_and_writes_go_on(
    service: Client, standby: Standby, expect_log: ExpectLog
):
    """503 at once, readiness says which one it is, and when it is back reads are there again."""
    await service.get("/tasks")
    with (
        expect_log("onfinish", r".", required=False),
        expect_log("tornado.access", r"^503 GET /(tasks|readyz) "),
    ):
        standby.stop(mode="immediate")
        try:
            began = own_time()
            refused = await service.get("/tasks")
            took_s = own_time() - began
            written = await service.post("/tasks", TASK)
            ready = await service.get("/readyz")
            for_reads = await service.get("/readyz?work=reads")
            for_writes = await service.get("/readyz?work=writes")
        finally:
            standby.start()

        async def back() -> bool:
            return (await service.get("/tasks")).code == 200

        await until(back)

    assert (refused.code, refused.json()["outcome"]) == (503, "not_applied")
    assert refused.headers["Retry-After"]
    assert took_s < 5
    assert written.code == 201
    assert ready.code == 503
    assert ready.json()["reason"].startswith("replica: ")
    assert "primary" not in ready.json()["reason"]
    assert (for_reads.code, for_reads.json()["reason"]) == (503, ready.json()["reason"])
    assert (for_writes.code, for_writes.json()) == (200, {"status": "ready"})
    assert (await service.get("/readyz")).code == 200


def test_the_doctor_looks_at_both(settings: Settings, primary: PostgresCluster):
    found = list(checkup.examine(settings.database, PLAN))
    of_replica = {finding.message: finding for finding in found if finding.subject == "replica"}

    assert [finding for finding in found if finding.level == "error"] == []
    assert any(message.startswith("a standby, ") for message in of_replica)
    assert any("max_standby_streaming_delay" in message for message in of_replica)


def test_the_doctor_notices_a_replica_that_is_none(settings: Settings, primary: PostgresCluster):
    same = settings.database.model_copy(update={"reader_url": settings.database.url})

    (finding,) = [each for each in checkup.examine(same, PLAN) if each.subject == "replica"]

    assert (finding.level, "no standby" in finding.message) == ("warning", True)


def test_the_doctor_counts_connections_on_each_server(settings: Settings):
    many = settings.database.model_copy(update={"reader_pool_size": 500})

    found = [each for each in checkup.examine(many, PLAN) if each.level == "error"]

    assert [(each.subject, "reader 500" in each.message) for each in found] == [("replica", True)]


def test_a_standby_that_is_cut_off_is_not_up_to_date(settings: Settings, standby: Standby):
    """All that it has received is applied: that says nothing while nothing arrives."""
    with standby.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW primary_conninfo")
        (conninfo,) = cursor.fetchone() or ("",)
        try:
            cursor.execute("ALTER SYSTEM SET primary_conninfo = ''")
            cursor.execute("SELECT pg_reload_conf()")

            def streams() -> bool:
                cursor.execute("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)")
                return cursor.fetchone() == (True,)

            assert wait_until(lambda: not streams(), timeout_s=CAUGHT_UP_S)
            found = [each for each in checkup.examine(settings.database, PLAN) if each.subject == "replica"]
        finally:
            cursor.execute("ALTER SYSTEM SET primary_conninfo = %s", (conninfo,))
            cursor.execute("SELECT pg_reload_conf()")
        assert wait_until(streams, timeout_s=CAUGHT_UP_S)

    assert found[0].level == "warning"
    assert "nothing is streamed" in found[0].message
