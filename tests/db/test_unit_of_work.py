"""A unit of work: undone unless it is kept, settled once, and of no use afterwards."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session, close_all_sessions

from db import Database, Outcome, UnitOfWork
from db.errors import (
    Conflict,
    DeadlinePassed,
    OutsideRun,
    SessionNotOwned,
    SessionSettled,
    TransactionAborted,
)
from tests.db.counters import add, create_counters, create_families, orphan, read, value
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.service.model import Shelf, create_shelf

MakeUnit = Callable[..., UnitOfWork]


@pytest.fixture
def unit_of(database: Database) -> MakeUnit:
    """``unit_of()`` is a unit of work on the writer, ``unit_of(read_only=True)`` one on the reader."""

    def make(**options: Any) -> UnitOfWork:
        endpoint = database.reader if options.get("read_only") else database.writer
        return UnitOfWork(endpoint.engine, database.backend, label="POST Some", **options)

    return make


def parent(session: Session) -> None:
    session.execute(text("INSERT INTO parents VALUES (1)"))


def checked_out(database: Database) -> int:
    """How many of its connections are out of their pools."""
    pools: set[Any] = {database.writer.engine.pool, database.reader.engine.pool}
    return sum(pool.checkedout() for pool in pools)


def test_what_is_kept_is_there_and_what_is_undone_is_not(unit_of: MakeUnit, database: Database, sql: RawSql):
    create_counters(sql)

    kept, outcomes = unit_of(), []
    add(kept.session)
    outcomes.append(kept.outcome)
    kept.settle(keep=True)
    outcomes.append(kept.outcome)
    undone = unit_of()
    add(undone.session, 10)
    undone.settle(keep=False)
    outcomes.append(undone.outcome)

    assert outcomes == [Outcome.OPEN, Outcome.COMMITTED, Outcome.ROLLED_BACK]
    assert value(sql) == 1
    assert kept.commit_s > 0
    assert checked_out(database) == 0


def test_nothing_is_opened_before_the_first_statement(unit_of: MakeUnit, database: Database):
    unit = unit_of()

    assert checked_out(database) == 0
    assert not unit.in_use
    unit.settle(keep=True)


@pytest.mark.usefixtures("shelves")
def test_rows_that_wait_for_a_flush_are_kept_too(unit_of: MakeUnit, sql: RawSql):
    """And what a flush at the end is refused is an error, not a success."""
    unit = unit_of()
    unit.session.add(Shelf(name="a"))
    assert unit.in_use
    unit.settle(keep=True)
    twin = unit_of()
    twin.session.add(Shelf(name="a"))

    with pytest.raises(Conflict, match="a shelf with this name exists already"):
        twin.settle(keep=True)

    assert twin.outcome is Outcome.ROLLED_BACK
    assert sql("SELECT count(*) AS n FROM shelves") == [{"n": 1}]


def test_a_commit_that_fails_leaves_nothing_for_the_next_user(
    unit_of: MakeUnit, database: Database, sql: RawSql
):
    """Rolled back before it is closed, whatever happened: SQLite would commit it with the next unit."""
    create_families(sql)
    unit = unit_of()
    orphan(unit.session)

    with pytest.raises(Conflict):
        unit.settle(keep=True)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert checked_out(database) == 0
    following = unit_of()
    following.session.execute(text("INSERT INTO parents VALUES (99)"))
    following.settle(keep=True)
    assert sql("SELECT * FROM children") == []


def test_no_connection_goes_back_to_the_pool_in_a_transaction(
    unit_of: MakeUnit, database: Database, sql: RawSql
):
    """Whatever became of the work, by what the driver knows in the moment of the return."""
    create_families(sql)
    states: list[bool] = []

    def back(driver: Any, record: object) -> None:
        if hasattr(driver, "in_transaction"):
            states.append(driver.in_transaction)
        else:
            states.append(driver.info.transaction_status != TRANSACTION_STATUS_IDLE)

    event.listen(database.writer.engine, "checkin", back)

    for work, keep in ((orphan, True), (orphan, False), (parent, True)):
        unit = unit_of()
        work(unit.session)
        with contextlib.suppress(Conflict):
            unit.settle(keep=keep)
    failed = unit_of()
    with contextlib.suppress(Exception):
        failed.session.execute(text("SELECT nonsense"))
    failed.settle(keep=False)

    assert states == [False] * 4


@pytest.mark.usefixtures("shelves")
def test_a_session_that_was_settled_refuses_every_use_and_names_its_owner(unit_of: MakeUnit, sql: RawSql):
    """Kept or undone. Also what would otherwise begin anew without a word, and the rows' lazy loads."""
    create_counters(sql)
    for keep in (True, False):
        unit = unit_of()
        session = unit.session
        shelf = create_shelf(session, name="a")
        unit.settle(keep=keep)

        uses: list[Callable[[], object]] = [
            lambda session=session: session.execute(text("SELECT 1")),  # type: ignore[misc]
            lambda session=session: session.scalars(select(Shelf)),  # type: ignore[misc]
            lambda session=session: session.get(Shelf, 1),  # type: ignore[misc]
            lambda session=session: session.add(Shelf(name="b")),  # type: ignore[misc]
            lambda session=session: session.begin_nested(),  # type: ignore[misc]
            lambda session=session: session.flush(),  # type: ignore[misc]
            lambda session=session: session.commit(),  # type: ignore[misc]
            lambda session=session: session.rollback(),  # type: ignore[misc]
            lambda session=session: session.connection(),  # type: ignore[misc]
            lambda session=session: session.in_transaction(),  # type: ignore[misc]
            lambda session=session: setattr(session, "autoflush", False),  # type: ignore[misc]
        ]
        for use in uses:
            with pytest.raises(SessionSettled, match=r"^POST Some: .*settled"):
                use()
        with pytest.raises(SessionSettled, match="POST Some"):
            unit.settle(keep=True)
        assert shelf.name == "a", "rows keep what was loaded"
        sql("DELETE FROM shelves")


def test_all_sessions_may_be_closed_once_their_units_are_settled(unit_of: MakeUnit, sql: RawSql):
    """`close_all_sessions()` is what test suites call at their end; nothing of what was kept goes with it."""
    create_counters(sql)
    kept, undone = unit_of(), unit_of()
    add(kept.session)
    kept.settle(keep=True)
    undone.settle(keep=False)

    close_all_sessions()
    kept.session.close()

    assert value(sql) == 1
    with pytest.raises(SessionSettled):
        read(kept.session)


def test_all_sessions_may_not_be_closed_while_a_unit_is_open(unit_of: MakeUnit, sql: RawSql):
    create_counters(sql)
    unit = unit_of()
    add(unit.session)

    with pytest.raises(SessionNotOwned, match=r"POST Some: `session\.close\(\)`"):
        close_all_sessions()

    unit.settle(keep=True)
    assert value(sql) == 1


@pytest.mark.usefixtures("shelves")
def test_rows_are_readable_after_the_commit_without_another_select(unit_of: MakeUnit):
    """expire_on_commit is off: the answer is built from rows, and rows end with the unit of work."""
    unit = unit_of()
    shelf = create_shelf(unit.session, name="a")
    unit.settle(keep=True)

    assert (shelf.name, shelf.id > 0) == ("a", True)


@pytest.mark.parametrize("method", ["commit", "rollback", "close", "begin"])
def test_only_its_unit_of_work_ends_a_session(unit_of: MakeUnit, sql: RawSql, method: str):
    """A commit in model code would keep half of a request. The unit goes on as if nothing had been said."""
    create_counters(sql)
    unit = unit_of()
    add(unit.session)

    with pytest.raises(SessionNotOwned, match=rf"POST Some: `session\.{method}\(\)`"):
        getattr(unit.session, method)()

    assert value(sql) == 0
    add(unit.session)
    unit.settle(keep=True)
    assert value(sql) == 2


def test_a_session_is_no_context_manager_that_ends_it(unit_of: MakeUnit, sql: RawSql):
    """``with session:`` closes, ``with session.begin():`` commits."""
    create_counters(sql)
    unit = unit_of()

    with pytest.raises(SessionNotOwned), unit.session:
        add(unit.session)
    with pytest.raises(SessionNotOwned), unit.session.begin():
        add(unit.session)

    assert value(sql) == 0
    unit.settle(keep=False)


def test_savepoints_are_permitted(unit_of: MakeUnit, sql: RawSql):
    create_counters(sql)
    unit = unit_of()
    add(unit.session)
    for amount, fails in ((10, True), (100, False)):
        with contextlib.suppress(KeyError), unit.session.begin_nested():
            add(unit.session, amount)
            if fails:
                raise KeyError

    unit.settle(keep=True)

    assert value(sql) == 101


@pytest.mark.usefixtures("shelves")
def test_an_error_that_was_caught_is_not_committed_over(unit_of: MakeUnit, sql: RawSql):
    """A flush that failed rolled the session back: what came before it is gone, so nothing is kept."""
    create_counters(sql)
    sql("INSERT INTO shelves (name) VALUES ('a')")
    unit = unit_of()
    add(unit.session)
    with pytest.raises(Exception, match=r"(?i)unique"):
        create_shelf(unit.session, name="a")

    with pytest.raises(TransactionAborted, match="POST Some"):
        unit.settle(keep=True)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert value(sql) == 0


def test_a_confined_session_sends_nothing_outside_of_a_call(
    unit_of: MakeUnit, database: Database, sql: RawSql
):
    """A request's session used on the event loop would stop it; no connection is taken, no lock either."""
    create_counters(sql)
    unit = unit_of(confined=True)

    with pytest.raises(OutsideRun, match=r"POST Some: .*`await self.run"):
        add(unit.session)
    assert checked_out(database) == 0
    unit.call(add, unit.session)
    with pytest.raises(OutsideRun):
        add(unit.session, 10)
    unit.settle(keep=True)

    assert value(sql) == 1


def test_a_unit_that_was_stopped_sends_nothing_more_and_is_not_kept(
    unit_of: MakeUnit, database: Database, sql: RawSql
):
    create_counters(sql)
    unit = unit_of()
    add(unit.session)
    unit.guard.request_cancel(DeadlinePassed())

    with pytest.raises(DeadlinePassed):
        add(unit.session)
    with pytest.raises(DeadlinePassed):
        unit.settle(keep=True)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert value(sql) == 0
    assert checked_out(database) == 0


def test_a_deadline_is_looked_at_before_every_statement_and_before_commit(unit_of: MakeUnit, sql: RawSql):
    """It ends without a cancel: statement_timeout is per statement, and N of them would pass it N times."""
    create_counters(sql)
    unit = unit_of(deadline_at=time.monotonic() + 60)
    add(unit.session)
    unit.guard.deadline_at = time.monotonic()

    with pytest.raises(DeadlinePassed):
        read(unit.session)
    unit.settle(keep=False)
    late = unit_of(deadline_at=time.monotonic() + 60)
    add(late.session)
    late.guard.deadline_at = time.monotonic()
    with pytest.raises(DeadlinePassed):
        late.settle(keep=True)

    assert late.outcome is Outcome.ROLLED_BACK
    assert value(sql) == 0


def test_a_read_only_unit_commits_nothing_and_gives_its_connection_back(
    unit_of: MakeUnit, database: Database, sql: RawSql
):
    create_counters(sql)
    commits: list[object] = []
    event.listen(database.reader.engine, "commit", commits.append)
    unit = unit_of(read_only=True)
    read(unit.session)

    unit.settle(keep=True)

    assert (unit.outcome, commits) == (Outcome.READ, [])
    assert checked_out(database) == 0


def test_a_unit_that_was_dropped_warns_and_leaves_the_pool_whole(
    unit_of: MakeUnit, database: Database, sql: RawSql
):
    """Its work is undone, its connection back and rolled back."""
    create_counters(sql)

    def forgetful() -> None:
        unit = unit_of()
        add(unit.session, 1000)

        del unit
        gc.collect()

    with pytest.warns(ResourceWarning, match="POST Some: a unit of work was dropped unsettled"):
        forgetful()
    gc.collect()  # the warning held it

    assert checked_out(database) == 0
    unit = unit_of()
    add(unit.session)
    unit.settle(keep=True)
    assert value(sql) == 1


def test_a_connection_that_cannot_be_rolled_back_is_thrown_away(
    unit_of: MakeUnit, database: Database, sql: RawSql, expect_log: ExpectLog
):
    """The next unit gets another. The log names the unit, the kind of error and nothing of its text."""
    create_counters(sql)
    unit = unit_of()
    add(unit.session)
    unit.session.connection().connection.dbapi_connection.close()  # type: ignore[union-attr]

    with expect_log(
        "onfinish.db", r"^POST Some: a connection was thrown away, it could not be rolled back \(\w+\)$"
    ):
        unit.settle(keep=False)

    assert unit.outcome is Outcome.ROLLED_BACK
    assert checked_out(database) == 0
    unit = unit_of()
    add(unit.session)
    unit.settle(keep=True)
    assert value(sql) == 1


def test_an_error_that_is_no_drivers_travels_as_it_is(unit_of: MakeUnit):
    unit = unit_of(confined=True)

    def fail(session: Session) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        unit.call(fail, unit.session)
    unit.settle(keep=False)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("first", ["session", "beside"])
def test_a_connection_that_is_opened_beside_the_sessions_changes_nothing(
    unit_of: MakeUnit, database: Database, sql: RawSql, first: str
):
    """A new one, and one that is pinged: neither is taken for the session's."""
    create_counters(sql)

    def work(session: Session) -> None:
        if first == "session":
            add(session)
        for _ in range(2):
            with database.writer.engine.connect() as beside:
                beside.execute(text("SELECT 1"))
        if first == "beside":
            add(session)

    unit = unit_of()
    unit.call(work, unit.session)
    unit.settle(keep=True)

    assert unit.outcome is Outcome.COMMITTED
    assert value(sql) == 1
    assert checked_out(database) == 0
