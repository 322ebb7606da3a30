"""A COMMIT whose answer never comes: what the client is told is what the database holds."""

from __future__ import annotations

import pytest
from tornado.ioloop import IOLoop
from tornado.web import Application

from conf import DatabaseSettings, Settings, load_settings
from db import Database, Outcome
from db.errors import OutcomeUnknown
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.server import Serve

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.parametrize("backend", ["postgresql"], indirect=True),
]

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}

BY_WITNESS = "as its witness says|not applied"


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


async def test_an_applied_commit_whose_answer_is_lost_is_a_success(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """The witness says that it was applied: the held success leaves, and there is one row."""
    client = serve(app)
    await client.post("/teams", {"name": "warm"})
    proxy.cut_at(b"COMMIT", delivered=True)

    with expect_log("onfinish.db", "was applied"):
        response = await client.post("/tasks", TASK)

    assert response.code == 201
    assert [row["id"] for row in sql("SELECT id FROM tasks")] == [response.json()["id"]]
    assert (await client.get(response.headers["Location"])).code == 200


async def test_a_commit_that_never_arrived_is_done_again(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """The witness says that it was not applied: the request runs again on a fresh connection, once."""
    client = serve(app)
    await client.post("/teams", {"name": "warm"})
    proxy.cut_at(b"COMMIT", delivered=False)

    with expect_log("onfinish.db", "was not applied"):
        response = await client.post("/tasks", TASK)

    assert response.code == 201
    assert [row["id"] for row in sql("SELECT id FROM tasks")] == [response.json()["id"]]


async def test_a_connection_killed_in_the_middle_of_a_request_is_not_noticed_by_its_client(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql
):
    client = serve(app)
    await client.post("/teams", {"name": "warm"})
    proxy.cut_at(b"INSERT INTO tasks", delivered=True)

    response = await client.post("/tasks", TASK)

    assert response.code == 201
    assert [row["id"] for row in sql("SELECT id FROM tasks")] == [response.json()["id"]]


async def test_a_connection_killed_at_rest_is_not_noticed(app: Application, serve: Serve, sql: RawSql):
    client = serve(app)
    await client.post("/teams", {"name": "warm"})
    await client.get("/teams")
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    assert (await client.get("/teams")).code == 200
    assert (await client.post("/tasks", TASK)).code == 201


async def test_a_commit_with_nobody_to_ask_is_unknown_and_says_so(
    app: Application, serve: Serve, proxy: Proxy, sql: RawSql, expect_log: ExpectLog
):
    """A link that goes black at COMMIT, and stays so: 503, outcome unknown, by the deadline and a moment."""
    client = serve(app)
    await client.post("/teams", {"name": "warm"})
    proxy.lose_answer_to(b"COMMIT")

    with (
        expect_log("onfinish", "connection is cut|hangs|during COMMIT", required=False),
        expect_log("tornado.access", "503 POST /tasks .* unknown"),
    ):
        response = await client.post("/tasks", TASK)

    assert (response.code, response.json()["outcome"]) == (503, "unknown")
    assert len(sql("SELECT id FROM tasks")) == 1
    proxy.thaw()
    assert (await client.get("/tasks")).code == 200


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_lost_commit_of_work_that_wrote_nothing_loses_nothing(
    app: Application, serve: Serve, proxy: Proxy, expect_log: ExpectLog, delivered: bool
):
    """There is nothing in doubt: no task was queued, so none was claimed."""
    client = serve(app)
    await client.post("/teams", {"name": "warm"})
    proxy.cut_at(b"COMMIT", delivered=delivered)

    with expect_log("onfinish.db", "was applied"):
        response = await client.post("/tasks/claim", {"limit": 1})

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
        assert (await client.post("/teams", {"name": name})).code == 201

    assert len(sql("SELECT * FROM commit_witness")) == 1


async def test_without_a_witness_a_lost_answer_stays_unknown(
    database_settings: DatabaseSettings, proxy: Proxy, io_loop: IOLoop, sql: RawSql
):
    """`database.commit_witness = false` saves a round trip a write, and costs this."""
    database = Database(database_settings.model_copy(update={"commit_witness": False}))
    unit = database.unit_of_work()
    insert = "INSERT INTO teams (name) VALUES ('a')"
    await unit.run(lambda session: session.connection().exec_driver_sql(insert), unit.session)
    proxy.cut_at(b"COMMIT", delivered=True)

    with pytest.raises(OutcomeUnknown):
        await unit.settle(keep=True)

    assert unit.outcome is Outcome.UNKNOWN
    assert sql("SELECT * FROM commit_witness") == []
    await database.close()
