"""A database that the service cannot serve with: said at the start with the fix, and in the log, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop
from tornado.routing import URLSpec
from tornado.web import Application

from conf import DatabaseSettings
from db import Database
from db.errors import NotMigrated, StatementFailed
from db.schema import migrate
from handlers.json_api.api import ApiHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.migrations import set_revision
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ServerProcess, StartServer
from tests.fixtures.proxies import MakeProxy
from tests.fixtures.server import Serve
from tests.fixtures.service import create_shelves

every_postgres_driver = pytest.mark.parametrize(
    "backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


def banner(server: ServerProcess) -> str:
    """What it has printed, in one line."""
    assert server.request("GET", "/livez").status == 200
    return " ".join(server.out.split())


@pytest.fixture
def empty_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """A database that was never migrated."""
    name = postgres_cluster.create_database()
    yield postgres_cluster.url_for(name)
    postgres_cluster.drop_database(name)


@every_postgres_driver
@pytest.mark.parametrize("why", ["password", "database", "port", "tls"])
def test_the_banner_says_why_the_database_cannot_be_reached_and_what_to_do(
    database_url: str, start_server: StartServer, unused_port: int, why: str
):
    url = make_url(database_url)
    url, words, fix = {
        "password": (
            url.set(password="geheim"),
            "password authentication failed",
            "is it the right user",
        ),
        "database": (
            url.set(database="none"),
            'database "none" does not exist',
            "make it on the server",
        ),
        "port": (url.set(port=unused_port), str(unused_port), "is the server running"),
        "tls": (url.update_query_dict({"sslmode": "require"}), "SSL", "set up TLS there"),
    }[why]

    server = start_server(url=url.render_as_string(hide_password=False))

    told = banner(server)
    assert "not ready the database does not answer: the database cannot be reached" in told
    assert words in told
    assert f"-> {fix}" in told
    assert told.endswith("stop with Ctrl-C")
    assert "geheim" not in server.out + server.err


@pytest.mark.parametrize("processes", [1, 2])
def test_the_banner_says_that_there_is_no_schema_and_how_to_make_it(
    empty_url: str, start_server: StartServer, processes: int
):
    server = start_server("--processes", str(processes), url=empty_url)

    way_out = f"there is no schema; the code expects {migrate.head()} -> run `python -m server migrate`"
    assert f"not ready {way_out} stop with" in banner(server)


def test_a_database_that_says_nothing_delays_the_start_by_two_seconds_at_most(
    start_server: StartServer, make_proxy: MakeProxy, postgres_cluster: PostgresCluster, empty_url: str
):
    proxy = make_proxy((postgres_cluster.host, postgres_cluster.port))
    proxy.freeze()
    server = start_server(url=empty_url.replace(f":{postgres_cluster.port}/", f":{proxy.port}/"))

    assert "not ready the database does not answer within 2 s -> is the server running" in banner(server)


def test_where_all_is_well_the_banner_has_nothing_more_to_say(database_url: str, start_server: StartServer):
    server = start_server(url=database_url)

    assert banner(server).count(" -> ") == 0
    assert "not ready" not in server.out


def test_why_it_is_not_ready_is_in_the_log_once_and_so_is_the_end_of_it(
    empty_url: str, start_server: StartServer
):
    """However often it is probed; and again where the reason is another."""
    server = start_server(url=empty_url)
    for _ in range(3):
        assert server.request("GET", "/readyz").status == 503

    assert server.err.count("not ready: there is no schema") == 1
    migrate.upgrade(DatabaseSettings(url=empty_url))
    for _ in range(2):
        assert server.request("GET", "/readyz").status == 200
    assert server.err.count("ready again") == 1


@every_postgres_driver
def test_the_log_has_the_drivers_words_of_it_and_the_answer_has_not(
    database_url: str, start_server: StartServer
):
    url = make_url(database_url).set(username="stranger").render_as_string(hide_password=False)
    server = start_server(url=url)

    reply = server.request("GET", "/readyz")

    assert reply.body["reason"] == "the database does not answer: the database cannot be reached"
    [line] = [line for line in server.err.splitlines() if "not ready: " in line]
    assert "stranger" in line


def test_while_there_is_no_schema_each_request_is_503_with_the_way_out_and_a_line(
    empty_url: str, start_server: StartServer
):
    """For reads and writes; and no longer, once it is there."""
    server = start_server(url=empty_url)
    way_out = f"there is no schema; the code expects {migrate.head()}: run `python -m server migrate`"

    replies = [
        server.request("GET", "/shelves"),
        server.request("GET", f"/books/{'0' * 32}"),
        server.request("POST", "/shelves", {"name": "Store"}),
        server.request("POST", "/books", {"title": "a book"}),
    ]

    for reply in replies:
        assert (reply.status, reply.body["detail"]) == (503, way_out)
        assert reply.body["outcome"] == "not_applied"
        assert reply.headers["Retry-After"]
    assert "Traceback" not in server.err
    assert server.err.count(way_out) == len(replies)
    migrate.upgrade(DatabaseSettings(url=empty_url))
    create_shelves(RawSql(empty_url))
    assert server.request("POST", "/shelves", {"name": "Store"}).status == 201


class Typo(ApiHandler):
    """Names a table that no revision makes."""

    async def get(self) -> None:
        await self.run(lambda session: session.execute(text("SELECT * FROM no_such_table")), self.session)


@pytest.mark.gen_test
@pytest.mark.every_driver
async def test_a_table_that_no_revision_makes_is_a_fault_of_the_program(
    app: Application, serve: Serve, expect_log: ExpectLog
):
    app.add_handlers(".*", [URLSpec("/typo", Typo)])

    with expect_log("onfinish.handlers", "the database refused a statement"), expect_log("tornado", "500"):
        answer = await serve(app).get("/typo")

    assert answer.code == 500


@pytest.mark.gen_test
@pytest.mark.every_driver
@pytest.mark.parametrize("missing", ["table", "column"])
async def test_a_schema_that_is_behind_is_told_from_a_slip_by_its_revision(
    database: Database, sql: RawSql, missing: str
):
    """In a unit of work on the event loop, and in a script's."""
    database.expect_schema(migrate.head())
    statement = text(f"SELECT {'1 FROM newer' if missing == 'table' else 'newer FROM idempotency_keys'}")

    def ask(session: Session) -> None:
        session.execute(statement)

    async def through(kind: type[Exception]) -> str:
        with pytest.raises(kind) as caught:
            async with database.unit_of_work() as unit:
                await unit.run(ask, unit.session)
        return str(caught.value)

    assert "refused a statement" in await through(StatementFailed)
    set_revision(sql, "kernel_0001")
    database.expect_schema(migrate.head())  # forgets what it was told a moment ago
    assert (
        await through(NotMigrated)
        == f"the schema is at kernel_0001, the code expects {migrate.head()}: run `python -m server migrate`"
    )


def test_a_schema_that_is_newer_is_not_behind(
    database_settings: DatabaseSettings, sql: RawSql, io_loop: IOLoop
):
    """No migration of this code would bring what the statement names."""
    database = Database(database_settings)
    database.expect_schema(migrate.head(), known=migrate.known())
    set_revision(sql, "9999")

    with pytest.raises(StatementFailed, match="refused a statement"), database.session_scope() as session:
        session.execute(text("SELECT 1 FROM newer"))

    io_loop.run_sync(database.close)


def test_a_scripts_unit_of_work_is_told_likewise(
    database_settings: DatabaseSettings, sql: RawSql, io_loop: IOLoop
):
    database = Database(database_settings)
    database.expect_schema(migrate.head())
    sql("DROP TABLE alembic_version")

    with pytest.raises(NotMigrated, match="there is no schema"), database.session_scope() as session:
        session.execute(text("SELECT 1 FROM newer"))

    io_loop.run_sync(database.close)
