"""What a unit of work leaves in the session of its connection reaches no other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, text
from sqlalchemy.orm import Session
from tornado.ioloop import IOLoop

from conf import DatabaseSettings
from db import Database
from db.backends.effects import MYSQL, POSTGRESQL, SQLITE
from db.errors import ReadOnlyViolation, StatementFailed, UsageError
from db.guard import CHANGES_SESSION, ENDS_TRANSACTION
from tests.db.counters import add, create_counters, value
from tests.fixtures.backends import ASYNC, DEFAULT, GREENLETS
from tests.fixtures.databases import RawSql

Work = Callable[[Session], Any]

ON_POSTGRESQL = [name for name in DEFAULT + ASYNC + GREENLETS if name.startswith("postgresql")]
ON_SQLITE = [name for name in DEFAULT + ASYNC + GREENLETS if name.startswith("sqlite")]

on_postgresql = pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
on_sqlite = pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)


@pytest.fixture
def database(database_settings: DatabaseSettings, io_loop: IOLoop) -> Iterator[Database]:
    """With one connection an endpoint: the next unit of work gets what the last one had."""
    own = {"pool_size": 1, "reader_pool_size": 1}
    database = Database(database_settings.model_copy(update=own))
    yield database
    io_loop.run_sync(database.close)


def execute(*statements: str) -> Work:
    def work(session: Session) -> None:
        for statement in statements:
            session.execute(text(statement))

    return work


def mark(session: Session) -> bool:
    """Whether the connection has been used by a unit of work before; from now on it has."""
    info = session.connection().info
    found = bool(info.get("seen"))
    info["seen"] = True
    return found


async def do(database: Database, *work: Work, read_only: bool = False) -> list[Any]:
    """A unit of work that does this; whether its connection was used before, and what was returned."""
    async with database.unit_of_work(read_only=read_only) as unit:
        return [await unit.run(each, unit.session) for each in (mark, *work)]


def fail(session: Session) -> None:
    raise KeyError("on purpose")


def setting(name: str) -> Work:
    return lambda session: session.scalar(text(f"SELECT current_setting('{name}', true)"))


def count(sql: str) -> Work:
    return lambda session: session.scalar(text(f"SELECT count(*) FROM {sql}"))


def by_parameter(is_local: bool) -> Work:
    """What SQLAlchemy makes of it: each argument is a parameter."""
    return lambda session: session.scalar(func.set_config("app.tenant", "7", is_local))


def list_databases(session: Session) -> list[str]:
    return [row.name for row in session.execute(text("PRAGMA database_list"))]


LOCKS = count("pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
TEMPORARY = count("pg_class WHERE relname = 'mine' AND relnamespace = pg_my_temp_schema()")

LEFT: dict[str, tuple[Work, Work, list[Any]]] = {
    "set_config": (execute("SELECT set_config('app.tenant', '7', false)"), setting("app.tenant"), [None, ""]),
    "set_config with parameters": (by_parameter(False), setting("app.tenant"), [None, ""]),
    "set_config in a CTE": (
        execute("/* who */ WITH t AS (SELECT Set_Config('app.tenant', '7', false)) SELECT 1 FROM t"),
        setting("app.tenant"),
        [None, ""],
    ),
    "SET": (execute("set app.tenant = '7'"), setting("app.tenant"), [None, ""]),
    "SET statement_timeout": (
        execute("SET statement_timeout = 50"),
        setting("statement_timeout"),
        ["1min"],
    ),
    "SET search_path": (
        execute("SET search_path TO public, pg_temp"),
        setting("search_path"),
        ['"$user", public'],
    ),
    "SET ROLE": (execute("SET ROLE pg_read_all_data"), setting("role"), ["none"]),
    "a temporary table": (
        execute("CREATE TEMPORARY TABLE mine (n integer)", "INSERT INTO mine VALUES (1)"),
        TEMPORARY,
        [0],
    ),
    "SELECT INTO TEMP": (execute("SELECT 1 AS n INTO TEMP TABLE mine"), TEMPORARY, [0]),
    "a session's lock": (execute("SELECT pg_advisory_lock(7)"), LOCKS, [0]),
    "a lock that is tried for": (execute("(SELECT pg_try_advisory_lock_shared(7))"), LOCKS, [0]),
    "a cursor WITH HOLD": (
        execute("DECLARE mine CURSOR WITH HOLD FOR SELECT 1"),
        count("pg_cursors WHERE name = 'mine'"),
        [0],
    ),
    "LISTEN": (execute("LISTEN mine"), count("pg_listening_channels()"), [0]),
    "PREPARE": (
        execute("PREPARE mine AS SELECT 1"),
        count("pg_prepared_statements WHERE name = 'mine'"),
        [0],
    ),
    "DO": (
        execute("DO $$ BEGIN PERFORM set_config('app.tenant', '7', false); END $$"),
        setting("app.tenant"),
        [None, ""],
    ),
}

ON_THE_READER = [
    "set_config",
    "set_config with parameters",
    "SET",
    "SET statement_timeout",
    "SET search_path",
    "SET ROLE",
    "a session's lock",
    "a cursor WITH HOLD",
    "LISTEN",
    "PREPARE",
]


@on_postgresql
@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("what", "read_only"),
    [(what, False) for what in LEFT if what != "SET ROLE"] + [(what, True) for what in ON_THE_READER],
)
async def test_what_a_unit_leaves_in_its_session_is_not_the_next_ones(
    what: str, read_only: bool, database: Database
):
    leave, look, clean = LEFT[what]
    await do(database, leave, read_only=read_only)

    used, found = await do(database, look, read_only=read_only)

    assert found in clean
    assert not used


@on_postgresql
@pytest.mark.gen_test
async def test_a_unit_that_is_undone_leaves_nothing_either(database: Database):
    """A session's lock outlives a rollback."""
    with pytest.raises(KeyError):
        await do(database, execute("SELECT pg_advisory_lock(7)"), fail)

    assert await do(database, LOCKS) == [False, 0]


@on_postgresql
@pytest.mark.gen_test
@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL app.tenant = '7'",
        "SELECT set_config('app.tenant', coalesce('7', 'a,b'), true)",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SELECT pg_advisory_xact_lock(7)",
        "CREATE TEMP TABLE mine (n integer) ON COMMIT DROP",
        "DECLARE mine CURSOR FOR SELECT 1",
        "NOTIFY mine",
        "SELECT 'set_config', 'pg_advisory_lock(7); SET x = 1'",
    ],
)
async def test_what_ends_with_the_transaction_costs_no_connection(statement: str, database: Database):
    await do(database, execute(statement))

    assert await do(database, setting("app.tenant"), LOCKS, TEMPORARY) in (
        [True, "", 0, 0],
        [True, None, 0, 0],
    )


@pytest.mark.every_driver
@pytest.mark.gen_test
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
async def test_a_unit_that_changes_nothing_of_its_session_gives_its_connection_back(
    read_only: bool, database: Database
):
    for _ in range(2):
        [used, _] = await do(database, execute("SELECT 1"), read_only=read_only)

    assert used


@on_sqlite
@pytest.mark.gen_test
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
async def test_what_sqlite_keeps_for_a_connection_is_not_the_next_ones(
    read_only: bool, database: Database, tmp_path: Path
):
    leave = [execute(f"ATTACH '{tmp_path}/other.db' AS other")]
    if not read_only:
        leave.append(execute("CREATE TEMP TABLE mine (n integer)", "INSERT INTO mine VALUES (1)"))
    for each in leave:
        await do(database, each, read_only=read_only)

        used, found = await do(database, list_databases, read_only=read_only)

        assert not used
        assert found == ["main"]


@on_sqlite
@pytest.mark.gen_test
async def test_a_reader_that_let_itself_write_is_the_only_one_that_could(database: Database, sql: RawSql):
    create_counters(sql)
    await do(database, execute("PRAGMA query_only = OFF"), read_only=True)

    with pytest.raises(ReadOnlyViolation):
        await do(database, add, read_only=True)

    assert value(sql) == 0


@on_sqlite
@pytest.mark.gen_test
async def test_questions_to_sqlite_cost_no_connection(database: Database):
    await do(database, execute("PRAGMA table_info('counters')", "PRAGMA query_only"))

    assert await do(database) == [True]


@pytest.mark.gen_test
async def test_in_memory_the_one_connection_is_not_to_be_changed():
    """It cannot be closed: it is the database."""
    database = Database(DatabaseSettings(url="sqlite://"))

    with pytest.raises(UsageError, match="use a file"):
        await do(database, execute("CREATE TEMP TABLE mine (n integer)"))

    await database.close()


@on_postgresql
@pytest.mark.gen_test
async def test_a_statement_that_failed_counts_as_well(database: Database):
    """A part of it may have been done."""
    with pytest.raises(StatementFailed):
        await do(database, execute("SELECT pg_advisory_lock(7), 1/0"))

    assert await do(database, LOCKS) == [False, 0]


# -- what is recognised

E, C = ENDS_TRANSACTION, CHANGES_SESSION


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ("", 0),
        ("SELECT * FROM counters", 0),
        (" commit ;", E),
        ("-- a\n/* b */ (COMMIT AND CHAIN)", E),
        ("/* /* nested */ */ COMMIT", E),
        ("ROLLBACK", E),
        ("rollback work", E),
        ("ROLLBACK TO SAVEPOINT a", 0),
        ("rollback work to a", 0),
        ("COMMIT PREPARED 'x'", E),
        ("PREPARE TRANSACTION 'x'", E),
        ("INSERT INTO x VALUES (1); COMMIT; BEGIN", E),
        ("SELECT 'a'';COMMIT', $x$;COMMIT;$x$, E'\\';COMMIT' -- ;COMMIT", 0),
        ('INSERT INTO "a;b" VALUES (1)', 0),
        ("SELECT 1; SET x = 2; COMMIT", E | C),
        ("SET SESSION x TO 1", C),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", C),
        ("SET LOCAL ROLE x", 0),
        ("RESET ALL", C),
        ("DISCARD ALL", C),
        ("UPDATE pg_settings SET setting = '1' WHERE name = 'x'", C),
        ("CREATE LOCAL TEMP TABLE x (n integer)", C),
        ("CREATE TABLE pg_temp.x (n integer)", C),
        ('CREATE TABLE "pg_temp" . x (n integer)', C),
        ("SELECT 1 AS n INTO pg_temp.x", C),
        ("SELECT 1 AS n INTO TABLE pg_temp.x", C),
        ("INSERT INTO pg_temp.x SELECT 1", 0),
        ("INSERT INTO temp SELECT 1", 0),
        ("SELECT temp INTO STRICT FROM x", 0),
        ("SELECT set_config('a', %(v)s, true)", 0),
        ("SELECT set_config('a', %(v)s, is_local => true)", 0),
        ("SELECT set_config('a', %(v)s, %(l)s)", C),
        ("SELECT set_config('a', 'b', true), set_config('c', 'd', false)", C),
        ("SELECT pg_catalog.\"set_config\"('a', $1, $2::boolean)", C),
        ("SELECT pg_advisory_unlock(1)", 0),
        ("EXPLAIN (ANALYZE) CREATE TEMP TABLE x AS SELECT 1", C),
        ("DO $$ BEGIN UPDATE t SET x = 1; COMMIT; END $$", 0),
        ("DO 'BEGIN SET x = ''1''; END'", C),
        ("DO $$ BEGIN EXECUTE 'SET x = 1'; END $$", C),
        ("CREATE FUNCTION f() RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT 1; END", 0),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(1);"
            " END $$",
            0,
        ),
        ("LOCK TABLE counters", 0),
    ],
)
def test_what_a_statement_does_to_postgresql_is_told_by_its_text(sql: str, effect: int):
    assert POSTGRESQL.effect_of(sql) == effect


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ("END TRANSACTION", E),
        (";COMMIT", E),
        ("ROLLBACK TRANSACTION TO SAVEPOINT x", 0),
        ("CREATE TRIGGER t BEFORE INSERT ON c BEGIN SELECT RAISE(ROLLBACK, 'no'); END", 0),
        ("INSERT OR ROLLBACK INTO c VALUES (1)", 0),
        ('/* a */ PRAGMA "query_only"=0', C),
        ("pragma query_only(0)", C),
        ('PRAGMA main.table_xinfo("c")', 0),
        ("CREATE TABLE temp.x (n)", C),
        ("DETACH other", C),
    ],
)
def test_what_a_statement_does_to_sqlite_is_told_by_its_text(sql: str, effect: int):
    assert SQLITE.effect_of(sql) == effect


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ("# a\ncommit", E),
        ("/*!40101 COMMIT */", E),
        ("SET @@session.autocommit = 1", E),
        ("LOCK TABLES x WRITE", E),
        ("SELECT 'it\\'s; @x := 1'", 0),
        ("SELECT @x := 1", C),
        ("SELECT GET_LOCK('a', 1)", C),
        ("CREATE TEMPORARY TABLE x (n integer)", C),
        ("USE other", C),
        ("SET STATEMENT max_statement_time = 1 FOR SELECT 1", 0),
    ],
)
def test_what_a_statement_does_to_mariadb_is_told_by_its_text(sql: str, effect: int):
    assert MYSQL.effect_of(sql) == effect


def test_long_texts_are_not_remembered():
    """Bulk inserts have another text for each number of rows; to remember them is to hold their memory."""
    long = "INSERT INTO x VALUES " + ", ".join(["(1)"] * 2000)
    before = POSTGRESQL._remembered.cache_info()

    assert POSTGRESQL.effect_of(long) == 0
    assert POSTGRESQL._remembered.cache_info() == before
