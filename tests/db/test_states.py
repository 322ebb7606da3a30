"""The states of a unit of work: whatever is done with it, in whatever order, the table has the sequence."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import Database, Outcome, UnitOfWork
from db.errors import ClientDisconnected, SessionSettled
from db.state import OUTCOMES, SETTLED, TRANSITIONS, UnitState
from tests.db.counters import create_families
from tests.fixtures.backends import Backend
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import Ear
from tests.fixtures.states import States

EXAMPLES = 80
STEPS = 16

S = UnitState


@pytest.fixture
def states() -> Iterator[States]:
    states = States()
    yield states
    states.close()


def unit_on(database: Database, **options: Any) -> UnitOfWork:
    endpoint = database.writer
    return UnitOfWork(
        endpoint.scopes,
        endpoint.scopes_backend,
        label="POST Some",
        commit_markers=database.commit_markers,
        **options,
    )


def test_every_state_has_its_row_in_the_table_and_its_meaning():
    assert set(TRANSITIONS) == set(OUTCOMES) == set(UnitState)


def test_from_every_state_a_settled_one_is_reached():
    """Nothing stays undecided, and what was decided is but for a COMMIT in doubt."""

    def reached_from(state: UnitState) -> set[UnitState]:
        found: set[UnitState] = set()
        waiting = [state]
        while waiting:
            for to in TRANSITIONS[waiting.pop()] - found:
                found.add(to)
                waiting.append(to)
        return found

    for state in UnitState:
        assert state in SETTLED or reached_from(state) & SETTLED
    assert {state for state in SETTLED if TRANSITIONS[state]} == {S.IN_DOUBT}
    assert S.COMMITTING not in reached_from(S.CANCELLED)


PATHS: dict[UnitState, list[UnitState]] = {
    S.OPEN: [],
    S.CANCELLED: [S.CANCELLED],
    S.COMMITTING: [S.COMMITTING],
    S.COMMITTED: [S.COMMITTING, S.COMMITTED],
    S.READ: [S.READ],
    S.ROLLED_BACK: [S.ROLLED_BACK],
    S.IN_DOUBT: [S.COMMITTING, S.IN_DOUBT],
}


@pytest.mark.parametrize(
    ("state", "to"),
    [(state, to) for state, to in itertools.product(S, S) if to not in TRANSITIONS[state]],
    ids=lambda state: state.name,
)
def test_what_the_table_has_not_is_refused_and_changes_nothing(
    database: Database, state: UnitState, to: UnitState
):
    unit = unit_on(database)
    for step in PATHS[state]:
        unit.guard.move(step)

    with pytest.raises(RuntimeError, match=f"POST Some: .* is {state.name} cannot be {to.name}"):
        unit.guard.move(to)

    assert unit.state is state
    if not unit.settled:
        unit.guard.move(S.ROLLED_BACK)


def test_the_outcome_is_what_the_state_means(database: Database):
    unit = unit_on(database)
    outcomes = [unit.outcome]
    unit.guard.request_cancel(ClientDisconnected())
    outcomes.append(unit.outcome)
    unit.settle(keep=False)
    outcomes.append(unit.outcome)

    assert outcomes == [Outcome.OPEN, Outcome.ROLLED_BACK, Outcome.ROLLED_BACK]


MISFORTUNES = (
    "fails_in_a_savepoint",
    "fails",
    "breaks_what_is_checked_at_commit",
    "is_committed_by_the_driver",
    "is_cancelled",
    "passes_its_deadline",
    "is_abandoned",
    "fails_after_commit",
)


MET = {
    (S.OPEN, S.CANCELLED),
    (S.OPEN, S.COMMITTED),
    (S.OPEN, S.COMMITTING),
    (S.OPEN, S.IN_DOUBT),
    (S.OPEN, S.ROLLED_BACK),
    (S.CANCELLED, S.ROLLED_BACK),
    (S.COMMITTING, S.COMMITTED),
    (S.COMMITTING, S.ROLLED_BACK),
}
"""The transitions that the examples meet on either database, at least: else they would show little."""


class Life(RuleBasedStateMachine):
    """One unit of work after the other, and what may happen to each. Lives as long as an example."""

    def __init__(self, database: Database, sql: RawSql, backend: Backend, states: States) -> None:
        super().__init__()
        self.database = database
        self.sql = sql
        self.is_postgresql = backend == "postgresql"
        self.states = states
        self.numbers = itertools.count(1)

    @initialize()
    def empty(self) -> None:
        self.sql("DELETE FROM children")
        self.sql("DELETE FROM parents")
        self._begin()

    @property
    def session(self) -> Session:
        return self.unit.session

    def _try(self, work: Callable[[], object]) -> bool:
        """A statement, whose error the program swallows. Returns whether it worked."""
        try:
            work()
        except Exception:  # noqa: BLE001 - what becomes of the unit then is what is tested
            return False
        return True

    def _begin(self) -> None:
        self.unit = unit_on(self.database)
        self.written: set[int] = set()
        self.is_stopped = self.is_ended = False

    @rule()
    def write(self) -> None:
        number = next(self.numbers)
        if self._try(lambda: self.session.execute(text(f"INSERT INTO parents VALUES ({number})"))):
            self.written.add(number)

    @rule(what=st.sampled_from(MISFORTUNES))
    def meet(self, what: str) -> None:
        getattr(self, f"_{what}")()

    def _fails_in_a_savepoint(self) -> None:
        def work() -> None:
            with contextlib.suppress(IntegrityError), self.session.begin_nested():
                self.session.execute(text("INSERT INTO parents VALUES (-1), (-1)"))

        self._try(work)

    def _fails(self) -> None:
        self._try(lambda: self.session.execute(text("INSERT INTO parents VALUES (-1), (-1)")))

    def _breaks_what_is_checked_at_commit(self) -> None:
        statement = text(f"INSERT INTO children VALUES ({next(self.numbers)}, -5)")
        self._try(lambda: self.session.execute(statement))

    def _is_committed_by_the_driver(self) -> None:
        def work() -> None:
            driver: Any = self.session.connection().connection.dbapi_connection
            driver.commit()

        self.is_ended |= self._try(work)

    def _is_cancelled(self) -> None:
        self.unit.guard.request_cancel(ClientDisconnected())
        self.unit.guard.cancel_statement()
        self.is_stopped = True

    def _passes_its_deadline(self) -> None:
        self.unit.guard.deadline_at = time.monotonic()

    def _is_abandoned(self) -> None:
        self.unit.guard.abandon()
        self.is_stopped = True

    @rule()
    @precondition(lambda self: self.is_postgresql)
    def lose_the_connection_at_commit(self) -> None:
        """Behind the commit marker: COMMIT is in doubt, and the marker decides."""

        def terminate(session: Session) -> None:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            self.sql("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)

        event.listen(self.session, "before_commit", terminate)

    def _fails_after_commit(self) -> None:
        def fail(session: Session) -> None:
            raise LookupError("after COMMIT")

        event.listen(self.session, "after_commit", fail)

    def _settle(self, *, keep: bool) -> None:
        unit = self.unit
        error = None
        try:
            unit.settle(keep=keep)
        except Exception as raised:  # noqa: BLE001 - judged below
            error = raised
        state = unit.state

        rows = {row["id"] for row in self.sql("SELECT id FROM parents WHERE id > 0")} & self.written
        match state:
            case S.COMMITTED:
                assert error is None
                assert keep
                assert rows == self.written
                assert not self.is_stopped
                assert not self.is_ended
            case S.ROLLED_BACK:
                assert not rows
                assert error is not None or not keep
            case S.IN_DOUBT:
                assert self.is_ended
                assert error is not None
            case _:
                raise AssertionError(f"it is {state.name}")
        with pytest.raises(SessionSettled):
            unit.settle(keep=True)
        assert unit.state is state
        assert self.states.wrong() == []

    @rule()
    def undo(self) -> None:
        self._settle(keep=False)
        self._begin()

    @rule()
    def keep(self) -> None:
        self._settle(keep=True)
        self._begin()

    def teardown(self) -> None:
        self._settle(keep=True)


def test_whatever_happens_to_a_unit_of_work_its_states_are_those_of_the_table(
    database: Database, sql: RawSql, backend: Backend, states: States, log_ear: Ear
):
    """And each is true of what is in the database."""
    create_families(sql)

    with log_ear.expect("onfinish.db", "", required=False):
        run_state_machine_as_test(
            lambda: Life(database, sql, backend, states),  # type: ignore[arg-type] # it is called
            settings=hypothesis_settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
            ),
        )
    in_doubt = {(S.COMMITTING, S.IN_DOUBT), (S.IN_DOUBT, S.ROLLED_BACK)}  # SQLite answers in the same process
    assert states.met >= MET | (in_doubt if backend == "postgresql" else set())
