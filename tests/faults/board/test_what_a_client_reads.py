"""One request that meets a fault: what its client reads, and the five questions after it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import psutil
import psycopg2
import pytest

from db import Database
from tests.faults.conftest import POOL_SIZE, REQUEST_TIMEOUT_S
from tests.faults.five_questions import FiveQuestions
from tests.faults.ledger import Ledger
from tests.faults.test_under_load import TERMINATE, crowd
from tests.fixtures.clock import own_time
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import Proxy
from tests.fixtures.server import Answer, Client
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("told_in_the_log")]

MARGIN_S = 1.0
"""What two busy cores may add."""


class Asker:
    """Sends writes and notes what came of them. Lives as long as one test."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self.task_id = ""

    async def create(self) -> Answer:
        """POST a task of its own."""
        self.task_id = task_id = self._ledger.new_id()
        answer = await self._client.post("/tasks", self._ledger.resource.new(task_id, 1))
        return self._ledger.heard(task_id, 1, answer)


@pytest.fixture
def asker(service: Client, ledger: Ledger) -> Asker:
    return Asker(service, ledger)


def refused(answer: Answer) -> bool:
    """Whether it is a 503 that says that nothing was applied, and when to ask again."""
    return (
        answer.code == 503
        and answer.json()["outcome"] == "not_applied"
        and int(answer.headers["Retry-After"]) >= 1
    )


@contextlib.contextmanager
def locked(sql: RawSql) -> Iterator[Callable[[], None]]:
    """No other transaction can write tasks in the block, or until the function that it yields is called."""
    with sql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE tasks IN EXCLUSIVE MODE")
        yield lambda: cursor.execute("ROLLBACK")


def at_commit(sql: RawSql, body: str) -> None:
    """Have COMMIT of a new task do something first."""
    sql(f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    sql(
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION at_commit()"
    )


async def until_waiting(sql: RawSql, event: str) -> None:
    """Wait until a backend of the board waits for this."""
    query = "SELECT 1 AS x FROM pg_stat_activity WHERE datname = current_database() AND wait_event = :event"
    assert await asyncio.to_thread(wait_until, lambda: bool(sql(query, event=event)), timeout_s=5.0)


async def test_a_backend_ended_while_idle_costs_no_request(
    five_questions: FiveQuestions, asker: Asker, service: Client, sql: RawSql
):
    await five_questions.remember()

    sql(TERMINATE)
    read = await service.get("/tasks?limit=1")
    written = await asker.create()
    sql(TERMINATE)
    exported = await service.get("/tasks/export")  # which leaves while it is read, and is not run again

    assert (read.code, written.code, exported.code) == (200, 201, 200)
    await five_questions.ask()


async def test_a_backend_ended_in_a_statement_is_not_noticed(
    five_questions: FiveQuestions, asker: Asker, sql: RawSql
):
    """It waits for a lock and is thrown out; the request runs again, and waits on another connection."""
    await five_questions.remember()

    with locked(sql) as unlock:
        asking = asyncio.ensure_future(asker.create())
        await until_waiting(sql, "relation")
        sql(TERMINATE.replace("pg_backend_pid()", "pg_backend_pid() AND wait_event = 'relation'"))
        await asyncio.sleep(0.1)
        unlock()

    assert (await asking).code == 201
    await five_questions.ask()


async def test_a_backend_ended_in_commit_is_asked_about_and_the_work_done_again(
    five_questions: FiveQuestions, asker: Asker, sql: RawSql, expect_log: ExpectLog
):
    """57P01 as the answer to COMMIT leaves its outcome open; the commit marker shows: not applied."""
    await five_questions.remember()
    at_commit(sql, "PERFORM pg_sleep(0.5); RETURN NULL;")

    with expect_log("onfinish.db", "during COMMIT, which was not applied"):
        asking = asyncio.ensure_future(asker.create())
        await until_waiting(sql, "PgSleep")
        sql(TERMINATE.replace("pg_backend_pid()", "pg_backend_pid() AND wait_event = 'PgSleep'"))
        answer = await asking

    assert answer.code == 201
    await five_questions.ask()


@pytest.mark.parametrize(
    ("errcode", "status"),
    [("check_violation", 409), pytest.param("raise_exception", 500, marks=pytest.mark.slow)],
)
async def test_a_trigger_that_raises_at_commit_leaves_nothing(
    five_questions: FiveQuestions,
    service: Client,
    sql: RawSql,
    expect_log: ExpectLog,
    ledger: Ledger,
    errcode: str,
    status: int,
):
    """A rule of the data is the client's affair; what no code here knows of is a fault of ours."""
    await five_questions.remember()
    at_commit(sql, f"RAISE EXCEPTION 'no' USING ERRCODE = '{errcode}';")

    with expect_log("tornado.access", "^500 ", required=status == 500):
        answer = await service.post("/tasks", ledger.resource.new("a" * 32, 1))

    assert (answer.code, answer.json()["outcome"]) == (status, "not_applied")
    assert sql("SELECT 1 AS x FROM tasks WHERE id = :id", id="a" * 32) == []
    sql("DROP FUNCTION at_commit CASCADE")
    await five_questions.ask()


@pytest.mark.slow
async def test_a_black_hole_at_connect_is_answered_by_the_deadline(
    five_questions: FiveQuestions, asker: Asker, sql: RawSql, proxy: Proxy
):
    """No connection is left; new ones are accepted and never answered."""
    await five_questions.remember()
    proxy.freeze()
    sql(TERMINATE)
    proxy.thaw()  # those at rest are gone, too
    proxy.freeze()

    began = own_time()
    answer = await asker.create()

    assert answer.code in (503, 504)
    assert answer.json()["outcome"] == "not_applied"
    assert own_time() - began < REQUEST_TIMEOUT_S + 1.5 + MARGIN_S
    proxy.thaw()
    await five_questions.ask()


@pytest.mark.parametrize(
    "word", [pytest.param(b"INSERT INTO tasks", marks=pytest.mark.slow), pytest.param(b"COMMIT")]
)
async def test_after_a_black_hole_every_connection_is_whole_within_five_seconds(
    five_questions: FiveQuestions, asker: Asker, service_database: Database, proxy: Proxy, word: bytes
):
    """The one in which it happened, those at rest, and those that others wait for."""
    await five_questions.remember()
    proxy.swallow(word)

    began = own_time()
    answers = await asyncio.gather(*(asker.create() for _ in range(POOL_SIZE)))
    assert own_time() - began < REQUEST_TIMEOUT_S + 1.5 + MARGIN_S
    assert {answer.code for answer in answers} <= {503, 504}

    proxy.thaw()
    await five_questions.ask()
    assert own_time() - began < REQUEST_TIMEOUT_S + 5.0
    assert (service_database.writer.limiter.taken, service_database.reader.limiter.taken) == (0, 0)


@pytest.mark.slow
async def test_links_that_fell_silent_cost_one_request_its_time_and_no_more(
    five_questions: FiveQuestions, asker: Asker, proxy: Proxy
):
    """A firewall that forgot them: what was used a moment ago is not asked, but new links work."""
    await five_questions.remember()
    proxy.forget()

    answers = [await asker.create() for _ in range(3)]

    assert [answer.code for answer in answers] == [504, 201, 201]
    proxy.reset_forgotten()
    await five_questions.ask()


async def test_a_server_that_is_gone_is_a_503_at_once(
    five_questions: FiveQuestions, asker: Asker, service: Client, cluster: PostgresCluster
):
    await five_questions.remember()
    cluster.stop(mode="fast")
    try:
        began = own_time()
        answers = [await asker.create(), await service.get("/tasks"), await service.get("/readyz")]
        took_s = own_time() - began
    finally:
        await asyncio.to_thread(cluster.start)

    assert refused(answers[0])
    assert refused(answers[1])
    assert answers[2].code == 503
    assert took_s < 1.0
    await five_questions.ask()


async def test_a_server_that_shuts_down_is_a_503(
    five_questions: FiveQuestions, asker: Asker, service: Client, sql: RawSql, cluster: PostgresCluster
):
    """It waits for an open session, and lets no other in: 57P03."""
    await five_questions.remember()
    with sql.connect() as lingering, lingering.cursor() as cursor:
        psutil.Process(cluster.pid).send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(wait_until, lambda: turned_away(sql))
        cursor.execute(TERMINATE)

        answers = [await asker.create(), await service.get("/tasks")]

    await asyncio.to_thread(cluster.stop)
    await asyncio.to_thread(cluster.start)
    assert all(map(refused, answers)), answers
    await five_questions.ask()


def turned_away(sql: RawSql) -> bool:
    """Whether the server refuses connections."""
    try:
        with sql.connect():
            return False
    except psycopg2.OperationalError as error:
        return "is shutting down" in str(error)


async def test_too_many_connections_are_a_503(
    five_questions: FiveQuestions, asker: Asker, service: Client, sql: RawSql
):
    await five_questions.remember()
    with crowd(sql) as press:
        press()

        answers = [await asker.create(), await service.get("/tasks")]

    assert all(map(refused, answers)), answers
    await five_questions.ask()


async def test_a_database_that_takes_no_writes_is_a_503_for_writers_alone(
    five_questions: FiveQuestions, asker: Asker, service: Client, sql: RawSql, database_name: str
):
    """25006 on the writer: reads go on. A connection that was told so is not used again.

    It may lead to what was the primary once, and every session that began meanwhile stays read-only.
    """
    await five_questions.remember()
    sql(f"ALTER DATABASE {database_name} SET default_transaction_read_only = on")
    sql(TERMINATE)

    answers = [await asker.create(), await service.get("/tasks")]

    assert refused(answers[0])
    assert answers[1].code == 200
    with sql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        cursor.execute(f"ALTER DATABASE {database_name} RESET default_transaction_read_only")
    await five_questions.ask()


async def test_a_lock_from_outside_is_a_504_and_cancelled_at_the_server(
    five_questions: FiveQuestions, asker: Asker, sql: RawSql
):
    await five_questions.remember()
    with locked(sql):
        answer = await asker.create()

        assert (answer.code, answer.json()["outcome"]) == (504, "not_applied")
        waiting = "SELECT 1 AS x FROM pg_locks WHERE NOT granted"
        assert await asyncio.to_thread(wait_until, lambda: not sql(waiting))
    await five_questions.ask()


@pytest.mark.slow
async def test_a_full_pool_is_a_503_for_those_beyond_it(
    five_questions: FiveQuestions, ledger: Ledger, service: Client, service_database: Database, sql: RawSql
):
    """Requests without a slot in time are refused; those with one are answered when the lock is gone."""
    service_database.settings = service_database.settings.model_copy(update={"pool_timeout_s": 0.2})
    await five_questions.remember()
    with locked(sql) as unlock:
        asking = [asyncio.ensure_future(Asker(service, ledger).create()) for _ in range(POOL_SIZE * 2)]
        assert (await service.get("/tasks?limit=1")).code == 200
        await asyncio.sleep(0.7)
        unlock()
        answers = await asyncio.gather(*asking)

    assert sorted(answer.code for answer in answers) == [201] * POOL_SIZE + [503] * POOL_SIZE
    assert all(refused(answer) for answer in answers if answer.code == 503)
    await five_questions.ask()
