"""A unit of work's isolation level: its own, and gone with it."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.errors import SessionNotOwned, UsageError
from tests.db.counters import add, create_counters, read, value
from tests.fixtures.backends import ASYNC
from tests.fixtures.databases import RawSql

ON_POSTGRESQL = ["postgresql"]
THROUGH_EACH_DRIVER = ["postgresql", *ASYNC[:2]]
ON_SQLITE = ["sqlite"]


@pytest.fixture
def database_settings(database_url: str) -> DatabaseSettings:
    """One connection for each endpoint: the next unit of work has the one that was used before."""
    return DatabaseSettings(url=database_url, pool_size=1, reader_pool_size=1)


def level_of(session: Session) -> tuple[str, int]:
    """The transaction's isolation level, and the connection."""
    level, pid = session.execute(
        text("SELECT current_setting('transaction_isolation'), pg_backend_pid()")
    ).one()
    return level, pid


@pytest.mark.parametrize("backend", THROUGH_EACH_DRIVER, indirect=True)
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"])
@pytest.mark.gen_test
async def test_a_unit_has_its_level_and_the_next_on_that_connection_has_not(
    database: Database, level: str, read_only: bool
):
    """For a unit of the event loop."""
    async with database.unit_of_work(read_only=read_only, isolation=level) as unit:
        own, pid = await unit.run(level_of, unit.session)
    async with database.unit_of_work(read_only=read_only) as unit:
        following = await unit.run(level_of, unit.session)

    assert own == level.lower()
    assert following == ("read committed", pid)


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
@pytest.mark.parametrize("fails", [False, True], ids=["kept", "undone"])
def test_so_has_a_scope(database: Database, sql: RawSql, fails: bool):
    create_counters(sql)

    try:
        with database.session_scope(isolation="SERIALIZABLE") as session:
            own, pid = level_of(session)
            if fails:
                raise KeyError
    except KeyError:
        pass
    with database.session_scope() as session:
        following = level_of(session)

    assert own == "serializable"
    assert following == ("read committed", pid)


@pytest.mark.parametrize("backend", THROUGH_EACH_DRIVER, indirect=True)
@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
@pytest.mark.gen_test
async def test_a_reader_with_a_level_sees_one_state_and_cannot_write(
    database: Database, sql: RawSql, level: str
):
    create_counters(sql)

    async with database.unit_of_work(read_only=True, isolation=level) as unit:
        before = await unit.run(read, unit.session)
        sql("UPDATE counters SET n = 7")
        after = await unit.run(read, unit.session)
        read_only = await unit.run(lambda: unit.session.scalar(text("SHOW transaction_read_only")))

    assert (before, after, read_only) == (0, 0, "on")


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "serializable", "SNAPSHOT", ""])
def test_what_is_no_level_of_a_transaction_is_refused(database: Database, level: str):
    """Of what is written in AUTOCOMMIT nothing could be undone."""
    with pytest.raises(UsageError, match=rf"POST Some: isolation = '{level}' .*SERIALIZABLE.*or None"):
        database.unit_of_work(label="POST Some", isolation=level)
    with pytest.raises(UsageError), database.session_scope(isolation=level):
        raise AssertionError("not reached")

    with database.session_scope() as session:
        session.execute(text("SELECT 1"))


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
def test_sqlite_is_serializable_and_nothing_else(database: Database, sql: RawSql):
    create_counters(sql)

    with database.session_scope(isolation="SERIALIZABLE") as session:
        add(session)
    for level in ("REPEATABLE READ", "READ COMMITTED", "READ UNCOMMITTED"):
        with pytest.raises(UsageError, match=rf"'{level}'.*set SERIALIZABLE, or None"):
            database.unit_of_work(isolation=level)

    assert value(sql) == 1


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
def test_a_serializable_reader_of_sqlite_sees_one_state(database: Database, sql: RawSql):
    create_counters(sql)

    with database.session_scope(read_only=True, isolation="SERIALIZABLE") as session:
        before = read(session)
        sql("UPDATE counters SET n = 7")
        after = read(session)

    assert (before, after) == (0, 0)
    with database.session_scope(read_only=True) as session:
        assert read(session) == 7


def test_a_snapshot_may_be_serializable(database: Database, sql: RawSql):
    unit = database.unit_of_work(snapshot=True, read_only=True, isolation="SERIALIZABLE")

    assert unit.settle_at_once(keep=True)


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
@pytest.mark.parametrize("level", ["READ COMMITTED", "READ UNCOMMITTED"])
def test_a_snapshot_and_a_level_below_it_contradict_each_other(database: Database, level: str):
    with pytest.raises(UsageError, match=rf"POST Some: snapshot = True and isolation = '{level}'"):
        database.unit_of_work(label="POST Some", snapshot=True, isolation=level)


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
def test_a_unit_with_a_level_takes_no_other(database: Database, sql: RawSql, level: str):
    create_counters(sql)

    with (
        pytest.raises(SessionNotOwned, match=rf"{level}.*`isolation = "),
        database.session_scope(isolation="SERIALIZABLE") as session,
    ):
        session.connection(execution_options={"isolation_level": level})
        add(session)

    assert value(sql) == 0
