"""A COMMIT whose answer never comes: what the client is told is what the database holds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import DatabaseSettings, Settings, load_settings
from db import Database, Outcome
from db.errors import ConnectionLost, OutcomeUnknown
from db.idempotency import Answer, Key, claim_key, keep_answer
from db.observer import Observer
from tests.fixtures.backends import GREENLETS
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.server import Serve
from tests.service.model import create_shelf

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.parametrize("backend", ["postgresql", *GREENLETS], indirect=True),
]

BOOK = {"title": "a book"}

BY_WITNESS = "as its commit marker shows|not applied"


@pytest.fixture
def sql(database_url: str) -> RawSql:
    """Past the proxy, on the run's own server."""
    return RawSql(database_url)


@pytest.fixture
def proxy(make_proxy: MakeProxy, postgres_cluster: PostgresCluster) -> Proxy:
    """What stands between the service and its database."""
    return make_proxy(("127.0.0.1", postgres_cluster.port))


@pytest.fixture
def database_settings(database_url: str, proxy: Proxy, postgres_cluster: PostgresCluster) -> DatabaseSettings:
    """The test's database, reached through the proxy, with one connection."""
    through = database_url.replace(f":{postgres_cluster.port}/", f":{proxy.port}/")
    assert through != database_url
    return DatabaseSettings(url=through, pool_size=1, pool_ping_after_s=0)


@pytest.fixture
def settings(database_settings: DatabaseSettings) -> Settings:
    assert database_settings.url is not None
    url = database_settings.url.get_secret_value()
    return load_settings(
        {"environment": "testing", "database.url": url, "http.request_timeout_s": 3.0}, environ={}
    )


@pytest.mark.parametrize(("delivered", "told"), [(True, "was applied"), (False, "was not applied")])
async def test_a_commit_whose_answer_is_lost_is_a_success(
    app: Application,
    serve: Serve,
    proxy: Proxy,
    sql: RawSql,
    expect_log: ExpectLog,
    delivered: bool,
    told: str,
):
    """The commit marker decides: applied, the held success leaves; not applied, there is one more attempt."""
    client = serve(app)
    await client.post("/shelves", {"name": "warm"})
    proxy.cut_at(b"COMMIT", delivered=delivered)

    with expect_log("onfinish.db", told):
        response = await client.post("/books", BOOK)

    assert response.code == 201
    assert [row["id"] for row in sql("SELECT id FROM books")] == [response.json()["id"]]
    assert (await client.get(response.headers["Location"])).code == 200


async def test_a_commit_that_arrives_after_its_client_was_told_that_it_is_lost_is_refused(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """No lock shows that it is on its way, since the commit marker travels with it."""
    client = serve(app)
    assert (await client.post("/books", BOOK)).code == 201
    proxy.hold_at(b"COMMIT")

    with expect_log("onfinish", ".", required=False), expect_log("tornado.access", "^50[34]"):
        answer = await client.post("/books", BOOK)
        proxy.release()
        for _ in range(100):  # until the server is done with what arrives
            await asyncio.sleep(0.02)
            if not sql(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
            )[1:]:
                break
        await asyncio.sleep(0.2)

    assert answer.json()["outcome"] == "not_applied"
    assert len(sql("SELECT id FROM books")) == 1


@pytest.mark.parametrize(("delivered", "told"), [(True, "was applied"), (False, "was not applied")])
async def test_an_idempotency_keys_row_is_the_commit_marker_of_its_request(
    app: Application,
    serve: Serve,
    proxy: Proxy,
    sql: RawSql,
    expect_log: ExpectLog,
    delivered: bool,
    told: str,
):
    """It is written in any case, and is the only commit marker. Sent again, the request is replayed."""
    client = serve(app)
    await client.get("/shelves")
    proxy.cut_at(b"COMMIT", delivered=delivered)

    with expect_log("onfinish.db", told):
        response = await client.post("/books", BOOK, headers={"Idempotency-Key": "k"})
    again = await client.post("/books", BOOK, headers={"Idempotency-Key": "k"})

    assert response.code == 201
    assert [row["id"] for row in sql("SELECT id FROM books")] == [response.json()["id"]]
    assert (again.code, again.body) == (201, response.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert sql("SELECT * FROM commit_witness") == []
    assert len(sql("SELECT * FROM idempotency_keys")) == 1


async def test_another_attempts_row_under_the_same_key_proves_nothing(
    database: Database, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """The first was not applied, and its client's second attempt was, before the row was read."""
    key, answer = Key("POST", "/books", "k"), Answer(201, {}, b"{}")

    def claim_and_keep(session: Session) -> None:
        assert claim_key(session, key=key, request_body=b"") is None
        keep_answer(session, key=key, answer=answer)

    first = database.unit_of_work()
    await first.run(claim_and_keep, first.session)
    proxy.cut_at(b"COMMIT", delivered=False)

    def ask(marker: Any, *, deadline_at: float | None) -> bool | None:
        with Session(bind) as session:  # the second attempt, past the proxy
            claim_and_keep(session)
            session.commit()
        return asked(marker, deadline_at=deadline_at)

    assert database.commit_markers is not None
    asked = database.commit_markers.was_committed
    database.commit_markers.was_committed = ask  # type: ignore[method-assign]
    bind = database.writer.scopes
    with expect_log("onfinish.db", "was not applied"), pytest.raises(ConnectionLost):
        await first.settle(keep=True)

    assert first.outcome is Outcome.ROLLED_BACK
    assert len(sql("SELECT * FROM idempotency_keys")) == 1


@pytest.mark.parametrize("outcome", ["committed", "rolled back"])
async def test_reading_a_keys_row_waits_for_the_transaction_that_writes_it(
    database: Database, sql: RawSql, outcome: str
):
    """A COMMIT whose connection was lost may still be under way at the server. Asking leaves no row."""
    key = Key("POST", "/books", "k")
    commit_markers = database.commit_markers
    assert commit_markers is not None
    with database.writer.scopes.connect() as connection, Session(connection) as session:
        claim_key(session, key=key, request_body=b"")
        keep_answer(session, key=key, answer=Answer(201, {}, b"{}"))
        marker = commit_markers.write(session, database.backend)
        assert marker is not None
        asking = asyncio.get_running_loop().run_in_executor(
            None, lambda: commit_markers.was_committed(marker, deadline_at=None)
        )
        await asyncio.sleep(0.3)
        assert not asking.done()
        await asyncio.to_thread(session.commit if outcome == "committed" else session.rollback)

    assert await asking is (outcome == "committed")
    assert len(sql("SELECT * FROM idempotency_keys")) == (outcome == "committed")


@pytest.mark.usefixtures("shelves")
async def test_a_database_without_the_table_is_reported_once_with_the_way_out(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """An application that never migrated hears of it at its first COMMIT, not at the first that is lost."""
    sql("DROP TABLE commit_witness")

    with expect_log("onfinish.db", "no table commit_witness: .* `python -m server migrate") as records:
        for number in range(2):
            async with database.unit_of_work() as unit:
                await unit.run(create_shelf, unit.session, name=f"shelf {number}")

    assert len(records) == 1
    assert len(sql("SELECT * FROM shelves")) == 2


async def test_a_connection_killed_in_the_middle_of_a_request_is_not_noticed_by_its_client(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql
):
    client = serve(app)
    await client.post("/shelves", {"name": "warm"})
    proxy.cut_at(b"INSERT INTO books", delivered=True)

    response = await client.post("/books", BOOK)

    assert response.code == 201
    assert [row["id"] for row in sql("SELECT id FROM books")] == [response.json()["id"]]


async def test_a_connection_killed_while_idle_costs_no_request(app: Application, serve: Serve, sql: RawSql):
    client = serve(app)
    await client.post("/shelves", {"name": "warm"})
    await client.get("/shelves")
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    assert (await client.get("/shelves")).code == 200
    assert (await client.post("/books", BOOK)).code == 201


async def test_a_commit_whose_marker_cannot_be_read_is_unknown_and_says_so(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """A link that goes black at COMMIT, and stays so: 503, outcome unknown, by the deadline and a moment."""
    client = serve(app)
    await client.post("/shelves", {"name": "warm"})
    proxy.lose_answer_to(b"COMMIT")

    with (
        expect_log("onfinish", "connection is cut|hangs|during COMMIT", required=False),
        expect_log("tornado.access", "503 POST /books .* unknown"),
    ):
        response = await client.post("/books", BOOK)

    assert (response.code, response.json()["outcome"]) == (503, "unknown")
    assert len(sql("SELECT id FROM books")) == 1
    proxy.thaw()
    assert (await client.get("/books")).code == 200


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_lost_commit_of_work_that_wrote_nothing_loses_nothing(
    app: Application, serve: Serve, proxy: Proxy, expect_log: ExpectLog, delivered: bool
):
    """There is nothing in doubt: there is no book, so none was lent."""
    client = serve(app)
    await client.post("/shelves", {"name": "warm"})
    proxy.cut_at(b"COMMIT", delivered=delivered)

    with expect_log("onfinish.db", "was applied"):
        response = await client.post("/books/lend", {"limit": 1})

    assert (response.code, response.json()) == (200, {"items": []})


async def test_work_that_wrote_nothing_leaves_no_testimony(database: Database, sql: RawSql):
    """A transaction that only read has nothing to lose, and is given no transaction id for it."""
    async with database.unit_of_work() as unit:
        await unit.run(lambda session: session.connection().exec_driver_sql("SELECT 1"), unit.session)

    assert sql("SELECT * FROM commit_witness") == []


async def test_a_connection_has_one_testimony_that_it_writes_over(
    app: Application, serve: Serve, sql: RawSql
):
    client = serve(app)
    for name in "abc":
        assert (await client.post("/shelves", {"name": name})).code == 201

    assert len(sql("SELECT * FROM commit_witness")) == 1


@pytest.mark.usefixtures("shelves")
async def test_without_commit_markers_a_lost_answer_stays_unknown(
    database_settings: DatabaseSettings, proxy: Proxy, io_loop: IOLoop, sql: RawSql
):
    """`database.commit_witness = false` saves a round trip a write, and costs this."""
    database = Database(database_settings.model_copy(update={"commit_witness": False}))
    unit = database.unit_of_work()
    insert = "INSERT INTO shelves (name) VALUES ('a')"
    await unit.run(lambda session: session.connection().exec_driver_sql(insert), unit.session)
    proxy.cut_at(b"COMMIT", delivered=True)

    with pytest.raises(OutcomeUnknown):
        await unit.settle(keep=True)

    assert unit.outcome is Outcome.UNKNOWN
    assert sql("SELECT * FROM commit_witness") == []
    await database.close()


class Answers(Observer):
    """What commit markers showed. Lives as long as its database."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def marker_asked(self, answer: str) -> None:
        self.answers.append(answer)


@pytest.mark.usefixtures("shelves")
async def test_what_the_marker_showed_is_counted(
    database_settings: DatabaseSettings, proxy: Proxy, expect_log: ExpectLog
):
    answers = Answers()
    database = Database(database_settings, answers)

    for delivered in (True, False):
        async with database.unit_of_work() as unit:  # so that it is connected
            await unit.run(create_shelf, unit.session, name=f"before {delivered}")
        proxy.cut_at(b"COMMIT", delivered=delivered)
        with expect_log("onfinish.db", BY_WITNESS), contextlib.suppress(ConnectionLost):
            async with database.unit_of_work() as unit:
                await unit.run(create_shelf, unit.session, name=f"cut {delivered}")
    await database.close()

    assert answers.answers == ["committed", "not committed"]
