"""The round trips of a unit of work: BEGIN with the first statement, the commit marker with COMMIT.

A proxy counts them on the wire. What every driver promises of transactions stands in other modules; here is
what a string of several statements could break.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors, extensions, extras
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session
from tornado.web import Application

from conf import DatabaseSettings, Settings, load_settings
from db import Database, Outcome
from db.errors import ConnectionLost, NotFound, OutcomeUnknown, StatementFailed, TransactionAborted
from tests.db.counters import add, create_counters, value
from tests.fixtures.backends import GREENLETS
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.pgbouncer import Bouncer
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import PostgresWire
from tests.fixtures.server import Serve
from tests.service import model

pytestmark = pytest.mark.gen_test

PSYCOPG2 = ("postgresql", *GREENLETS)

in_threads = pytest.mark.parametrize("backend", PSYCOPG2[:1], indirect=True)
on_psycopg2 = pytest.mark.parametrize("backend", PSYCOPG2, indirect=True)
with_marker_and_commit = pytest.mark.parametrize("backend", [*PSYCOPG2, "postgresql+asyncpg"], indirect=True)


@pytest.fixture
def sql(database_url: str) -> RawSql:
    """Past the proxy, on the run's own server."""
    return RawSql(database_url)


@pytest.fixture
def wire(postgres_cluster: PostgresCluster) -> Iterator[PostgresWire]:
    """What stands between the service and its database, and counts."""
    with closing(PostgresWire(("127.0.0.1", postgres_cluster.port))) as wire:
        yield wire


@pytest.fixture
def database_settings(database_url: str, wire: PostgresWire) -> DatabaseSettings:
    """The test's database, reached through the proxy, with one connection for each of both roles."""
    url = make_url(database_url).set(port=wire.port).render_as_string(hide_password=False)
    return DatabaseSettings(url=url, pool_size=1)


@pytest.fixture
def settings(database_settings: DatabaseSettings) -> Settings:
    """The same for a service."""
    assert database_settings.url is not None
    url = database_settings.url.get_secret_value()
    return load_settings({"environment": "testing", "database.url": url, "database.pool_size": 1}, environ={})


def driver(session: Session) -> Any:
    """The connection of the driver."""
    return session.connection().connection.dbapi_connection


async def do(
    database: Database,
    work: Callable[..., Any],
    *,
    read_only: bool = False,
    isolation: str | None = None,
    **arguments: Any,
) -> Any:
    unit = database.unit_of_work(retries=True, read_only=read_only, isolation=isolation)  # no ping
    async with unit:
        return await unit.run(work, unit.session, **arguments)


async def refused_once(
    database: Database, error: type[Exception], work: Callable[..., Any], **arguments: Any
) -> None:
    with pytest.raises(error):
        await do(database, work, **arguments)


class TestHowMany:
    @pytest.mark.parametrize(
        ("backend", "wanted"),
        [(name, {"read": 1, "create": 2, "patch": 3}) for name in PSYCOPG2]
        + [("postgresql+asyncpg", {"read": 1, "create": 3, "patch": 4})],
        indirect=["backend"],
    )
    async def test_a_request_makes_no_more_than_its_statements_and_one(
        self, app: Application, serve: Serve, wire: PostgresWire, wanted: dict[str, int]
    ):
        """The second of each kind, over connections that are there, with plans that are prepared."""
        client = serve(app)
        made = {}
        for name in "ab":
            wire.trips()
            created = await client.post("/shelves", {"name": name})
            made["create"] = wire.trips()
            path = created.headers["Location"]
            read = await client.get(path)
            made["read"] = wire.trips()
            patched = await client.patch(path, {"name": f"{name}!"})
            made["patch"] = wire.trips()

            assert (created.code, read.code, patched.code) == (201, 200, 200)
        assert made == wanted

    @pytest.mark.debian
    @on_psycopg2
    @pytest.mark.usefixtures("shelves")
    async def test_behind_pgbouncer_writes_make_as_many(
        self, database_url: str, bouncer: Bouncer, sql: RawSql
    ):
        """With the limits that are local to each transaction, and a read in ``BEGIN READ ONLY``."""
        with closing(PostgresWire(("127.0.0.1", bouncer.port))) as wire:
            url = make_url(bouncer.url_of(database_url)).set(port=wire.port)
            settings = DatabaseSettings(
                url=url.render_as_string(hide_password=False), pooler="pgbouncer", pool_size=1
            )
            database = Database(settings)
            made = {}
            for name in "ab":
                shelf = await do(database, model.create_shelf, name=name)
                made["create"] = wire.trips()
                await do(database, model.get_shelf, shelf_id=shelf.id, read_only=True)
                made["read"] = wire.trips()
                await do(database, model.update_shelf, shelf_id=shelf.id, name=f"{name}!")
                made["patch"] = wire.trips()
                wire.trips()
                for role in ("writer", "reader"):
                    assert getattr(database, role).engine.pool.checkedin() == 1
            await database.close()

        assert made == {"create": 2, "read": 2, "patch": 3}
        assert len(sql("SELECT * FROM commit_witness")) == 1

    @on_psycopg2
    async def test_a_transactions_level_travels_with_it(self, database: Database, wire: PostgresWire):
        def work(session: Session) -> Any:
            return session.scalar(text("SHOW transaction_isolation"))

        for level in ("SERIALIZABLE", "SERIALIZABLE", None):
            wire.trips()
            found = await do(database, work, isolation=level)

            assert found == (level or "READ COMMITTED").lower()
        assert wire.trips() == 3  # the marker by itself: nothing shows that this has not written

    @on_psycopg2
    @pytest.mark.usefixtures("shelves")
    async def test_a_write_in_the_text_of_a_statement_is_seen(self, database: Database, wire: PostgresWire):
        def work(session: Session) -> None:
            session.execute(text("INSERT INTO shelves (name) SELECT 'a' || count(*) FROM shelves"))

        await do(database, work)
        wire.trips()
        await do(database, work)

        assert wire.trips() == 2


class TestAFirstStringThatFails:
    @on_psycopg2
    @pytest.mark.parametrize("first", ["SELEC 1", "SELECT 1/0", "SELECT no_such_column"])
    async def test_what_follows_is_refused_whether_or_not_begin_has_run(
        self, database: Database, sql: RawSql, first: str
    ):
        """A text that cannot be parsed fails before anything of its string is run."""
        create_counters(sql)
        refused: list[Any] = []

        def work(session: Session) -> None:
            with pytest.raises(Exception, match=r"syntax|division|does not exist"):
                session.execute(text(first))
            try:
                add(session)
            except Exception as error:  # noqa: BLE001  # the test looks at it
                refused.append(error)

        await refused_once(database, TransactionAborted, work)
        await do(database, add)  # over the same connection

        assert [error.orig.pgcode for error in refused] == ["25P02"]
        assert value(sql) == 1

    @on_psycopg2
    async def test_a_parameter_that_the_driver_does_not_know_leaves_the_transaction_usable(
        self, database: Database, sql: RawSql
    ):
        """Nothing was sent."""
        create_counters(sql)

        def work(session: Session) -> None:
            with pytest.raises(Exception, match="can't adapt"):
                session.execute(text("SELECT :x"), {"x": object()})
            add(session)

        await do(database, work)

        assert value(sql) == 1

    @on_psycopg2
    async def test_a_first_savepoint_guards_what_is_in_it(self, database: Database, sql: RawSql):
        create_counters(sql)

        def work(session: Session) -> None:
            with pytest.raises(Exception, match="syntax"), session.begin_nested():
                session.execute(text("SELEC 1"))
            add(session)

        await do(database, work)

        assert value(sql) == 1


class TestTheMarkerWithCommit:
    @with_marker_and_commit
    @pytest.mark.usefixtures("shelves")
    async def test_a_marker_that_fails_commits_nothing(self, database: Database, sql: RawSql):
        """And leaves the connection to the next unit of work, without its transaction."""
        sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
        sql("CREATE TRIGGER refuse BEFORE INSERT ON commit_witness FOR EACH ROW EXECUTE FUNCTION refuse()")

        await refused_once(database, StatementFailed, model.create_shelf, name="a")
        sql("DROP TRIGGER refuse ON commit_witness")
        await do(database, model.create_shelf, name="b")

        assert [row["name"] for row in sql("SELECT name FROM shelves")] == ["b"]
        assert database.writer.engine.pool.checkedin() == 1  # type: ignore[attr-defined]
        assert len(sql("SELECT * FROM commit_witness")) == 1

    @with_marker_and_commit
    @pytest.mark.usefixtures("shelves")
    async def test_a_constraint_at_commit_is_that_constraints_error(self, database: Database, sql: RawSql):
        sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE insufficient_privilege; END $$"
        )
        sql(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shelves DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

        with pytest.raises(StatementFailed) as refused:
            await do(database, model.create_shelf, name="a")

        assert type(refused.value) is StatementFailed  # not the marker's, which has that code too
        assert sql("SELECT * FROM shelves") == []
        assert sql("SELECT * FROM commit_witness") == []

    @with_marker_and_commit
    @pytest.mark.usefixtures("shelves")
    async def test_a_row_that_was_deleted_is_written_again(self, database: Database, sql: RawSql):
        """The hourly job deletes what is a day old, and its connection may still be there."""
        await do(database, model.create_shelf, name="a")
        sql("DELETE FROM commit_witness")

        await do(database, model.create_shelf, name="b")

        assert len(sql("SELECT * FROM commit_witness")) == 1

    @with_marker_and_commit
    @pytest.mark.parametrize("delivered", [True, False])
    async def test_work_that_touched_no_row_has_nothing_in_doubt(
        self, database: Database, sql: RawSql, wire: PostgresWire, expect_log: ExpectLog, delivered: bool
    ):
        """An UPDATE was executed: its answer shows that it has written nothing, and so does the marker's."""
        create_counters(sql)
        unit = database.unit_of_work()
        await unit.run(add, unit.session, counter=99)
        wire.cut_at(b"COMMIT", delivered=delivered)

        with expect_log("onfinish.db", "was applied"):
            await unit.settle(keep=True)

        assert unit.outcome is Outcome.COMMITTED

    @with_marker_and_commit
    @pytest.mark.parametrize("delivered", [True, False])
    async def test_a_write_that_no_statement_reports_is_not_lost(
        self, database: Database, sql: RawSql, wire: PostgresWire, expect_log: ExpectLog, delivered: bool
    ):
        """A function that writes, in a SELECT: the marker is sent by itself, and its answer shows it."""
        create_counters(sql)
        sql(
            "CREATE FUNCTION add_one() RETURNS integer LANGUAGE sql AS"
            " 'UPDATE counters SET n = n + 1 WHERE id = 1 RETURNING n'"
        )
        unit = database.unit_of_work()
        await unit.run(lambda session: session.scalar(text("SELECT add_one()")), unit.session)
        wire.cut_at(b"COMMIT", delivered=delivered)

        with (
            expect_log("onfinish.db", "was applied" if delivered else "was not applied"),
            contextlib.nullcontext() if delivered else pytest.raises(ConnectionLost),
        ):
            await unit.settle(keep=True)

        assert value(sql) == int(delivered)

    @with_marker_and_commit
    @pytest.mark.usefixtures("shelves")
    @pytest.mark.parametrize("delivered", [True, False])
    async def test_a_foreign_table_that_came_after_the_connection_leaves_a_lost_commit_unknown(
        self, database: Database, sql: RawSql, wire: PostgresWire, expect_log: ExpectLog, delivered: bool
    ):
        """Rows of one are reported as written, and have no marker: "not applied" would be a guess."""
        await do(database, model.create_shelf, name="a")
        sql("CREATE FOREIGN DATA WRAPPER elsewhere")
        unit = database.unit_of_work()
        await unit.run(model.create_shelf, unit.session, name="b")
        wire.cut_at(b"COMMIT", delivered=delivered)

        with (
            expect_log("onfinish.db", "was applied", required=delivered),
            contextlib.nullcontext() if delivered else pytest.raises(OutcomeUnknown),
        ):
            await unit.settle(keep=True)

        assert unit.outcome is (Outcome.COMMITTED if delivered else Outcome.UNKNOWN)
        assert len(sql("SELECT * FROM shelves")) == 1 + delivered

    @with_marker_and_commit
    @pytest.mark.usefixtures("shelves")
    async def test_a_program_that_deallocates_what_is_prepared_is_committed(
        self, database: Database, sql: RawSql
    ):
        """The marker's statement is prepared, and its plan with it."""

        def work(session: Session, name: str) -> None:
            model.create_shelf(session, name=name)
            session.connection().exec_driver_sql("DEALLOCATE ALL")

        for name in "ab":
            await do(database, work, name=name)

        assert len(sql("SELECT * FROM shelves")) == 2

    @on_psycopg2
    @pytest.mark.usefixtures("shelves")
    async def test_one_that_does_so_unseen_is_refused_and_its_connection_closed(
        self, database: Database, sql: RawSql
    ):
        def work(session: Session) -> None:
            model.create_shelf(session, name="a")
            with closing(driver(session).cursor()) as cursor:
                cursor.execute("DEALLOCATE ALL")

        await refused_once(database, StatementFailed, work)
        await do(database, model.create_shelf, name="b")

        assert [row["name"] for row in sql("SELECT name FROM shelves")] == ["b"]

    @with_marker_and_commit
    @pytest.mark.usefixtures("shelves")
    async def test_the_marker_is_among_the_statements(self, database: Database):
        async with database.unit_of_work() as unit:
            await unit.run(model.create_shelf, unit.session, name="a")

        assert unit.statements == 2


class TestConnections:
    """Of psycopg2, whose own transactions are not used."""

    @in_threads
    async def test_copy_begins_the_transaction(self, database: Database, sql: RawSql):
        create_counters(sql)

        def work(session: Session) -> str:
            connection = session.connection().connection
            with closing(connection.cursor()) as cursor:
                cursor.copy_from(io.StringIO("7\t40\n"), "counters")
                out = io.StringIO()
                cursor.copy_expert("COPY (SELECT n FROM counters ORDER BY id) TO STDOUT", out)
            return out.getvalue()

        def work_and_fail(session: Session) -> None:
            work(session)
            raise NotFound("counter", 7)

        await refused_once(database, NotFound, work_and_fail)
        assert len(sql("SELECT * FROM counters")) == 1

        assert await do(database, work) == "0\n40\n"
        assert value(sql, 7) == 40

    @in_threads
    @pytest.mark.parametrize("is_kept", [True, False])
    async def test_a_large_object_is_in_the_transaction(self, database: Database, sql: RawSql, is_kept: bool):
        create_counters(sql)

        def work(session: Session) -> int:
            add(session)
            with closing(driver(session).lobject(0, "wb")) as large:
                large.write(b"large")
            add(session)
            if not is_kept:
                raise NotFound("large object", large.oid)
            return int(large.oid)

        oids: list[int] = []
        with contextlib.nullcontext() if is_kept else pytest.raises(NotFound):
            oids.append(await do(database, work))

        assert value(sql) == 2 * is_kept
        found = sql("SELECT loid, data FROM pg_largeobject")
        assert [(row["loid"], bytes(row["data"])) for row in found] == [(oid, b"large") for oid in oids]
        await do(database, add)
        assert value(sql) == 2 * is_kept + 1

    @on_psycopg2
    async def test_cursors_are_psycopg2s(self, database: Database):
        """Of a factory, with a name, with many parameters, with a procedure; all in one transaction."""

        def work(session: Session) -> tuple[Any, ...]:
            connection = driver(session)
            with closing(connection.cursor(cursor_factory=extras.RealDictCursor)) as cursor:
                cursor.execute("SELECT txid_current() AS first")
                first = cursor.fetchone()["first"]
                cursor.callproc("upper", ["abc"])
                upper = cursor.fetchone()["upper"]
            with closing(connection.cursor("pages")) as cursor:
                cursor.execute("SELECT generate_series(1, %s)", (7,))
                pages = [[row[0] for row in cursor.fetchmany(3)] for _ in range(2)]
                pages.append([row[0] for row in cursor])
                assert cursor.name == "pages"
            with closing(connection.cursor("back", scrollable=True)) as cursor:
                cursor.execute(b"SELECT generate_series(1, 5)")
                cursor.scroll(4)
                cursor.scroll(-2)
                assert cursor.fetchone()[0] == 3
            with closing(connection.cursor()) as cursor:
                cursor.execute("CREATE TEMPORARY TABLE t (n int) ON COMMIT DROP")
                cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,), (3,)])
                rows = cursor.rowcount
                extras.execute_values(cursor, "INSERT INTO t VALUES %s", [(4,), (5,)])
                cursor.execute("SELECT count(*), txid_current() FROM t")
                return first, upper, pages, rows, cursor.fetchone()

        first, *others, last = await do(database, work)

        assert others == ["ABC", [[1, 2, 3], [4, 5, 6], [7]], 3]
        assert last == (5, first)

    @on_psycopg2
    async def test_outside_of_transactions_a_named_cursor_is_refused(self, database: Database):
        def work(session: Session) -> None:
            with closing(driver(session).cursor("pages")) as cursor:
                cursor.execute("SELECT 1")

        with pytest.raises(psycopg2.ProgrammingError, match="outside of transactions"):
            await do(database, work, read_only=True)

    @in_threads
    def test_by_itself_it_is_as_psycopg2s(self, database: Database, sql: RawSql):
        """Levels, modes, autocommit, ``with``: for an application that has taken one from the pool."""
        create_counters(sql)
        update = "UPDATE counters SET n = n + 1"
        found = []
        with closing(database.writer.scopes.raw_connection()) as pooled:
            connection: Any = pooled.dbapi_connection
            connection.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
            with closing(connection.cursor()) as cursor:
                for name in ("isolation", "read_only", "deferrable"):
                    cursor.execute(f"SHOW transaction_{name}")
                    found.append(cursor.fetchone()[0])
                assert connection.status == extensions.STATUS_BEGIN
                with pytest.raises(psycopg2.ProgrammingError, match="inside a transaction"):
                    connection.autocommit = True
                connection.rollback()
                assert connection.status == extensions.STATUS_READY
                connection.set_session(isolation_level="DEFAULT", readonly="DEFAULT", deferrable="DEFAULT")
                connection.autocommit = True
                cursor.execute(update)
                assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
                connection.set_isolation_level(extensions.ISOLATION_LEVEL_DEFAULT)
                with connection:
                    cursor.execute(update)
                with pytest.raises(NotFound), connection:
                    cursor.execute(update)
                    raise NotFound("counter", 1)
                with pytest.raises(psycopg2.Error, match="division"):
                    cursor.execute("SELECT 1/0")
                with pytest.raises(errors.InFailedSqlTransaction):
                    connection.commit()
                connection.reset()
            assert not connection.notices

        assert found == ["serializable", "on", "on"]
        assert value(sql) == 2

    @on_psycopg2
    async def test_an_applications_factories_are_used(self, database_settings: DatabaseSettings):
        """Of connections and of cursors, in ``connect_args``."""

        class Connection(extensions.connection):
            pass

        class Cursor(extensions.cursor):
            pass

        arguments = {"connection_factory": Connection, "cursor_factory": Cursor}
        database = Database(database_settings.model_copy(update={"connect_args": arguments}))

        def work(session: Session) -> bool:
            with closing(driver(session).cursor()) as cursor:
                return isinstance(driver(session), Connection) and isinstance(cursor, Cursor)

        assert await do(database, work)
        await database.close()
