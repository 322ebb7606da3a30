"""Transfers: the move and its audit row, together or neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from db import Database
from db.board import tasks, teams, transfers
from db.errors import Conflict, Invalid, NotFound
from tests.fixtures.board.rows import add_task, add_team, load_log, load_task, new_task, overlapped
from tests.fixtures.databases import RawSql

ID = "f2ee55c638084ebfb35a00c003670ad9"


@dataclass(frozen=True)
class Board:
    """One task, in the first of three teams. Lives as long as the test."""

    task: str
    a: int
    b: int
    c: int


@pytest.fixture
def board(database: Database) -> Board:
    a, b, c = (add_team(database, name) for name in "abc")
    return Board(add_task(database, team_id=a), a, b, c)


def test_the_task_moves_and_the_log_says_so(database: Database, board: Board):
    before = load_task(database, board.task)

    with database.session_scope() as session:
        task, transfer = transfers.transfer_task(
            session, task_id=board.task, from_team_id=board.a, to_team_id=board.b, note="too much to do"
        )

    assert (task.team_id, task.version) == (board.b, 2)
    assert task.update_time > before.update_time
    (kept,) = load_log(database, board.task)
    assert (kept.id, kept.task_id, kept.note) == (transfer.id, board.task, "too much to do")
    assert (kept.from_team_id, kept.to_team_id) == (board.a, board.b)
    assert kept.create_time == load_task(database, board.task).update_time


def test_a_task_goes_out_of_its_team_and_into_another(database: Database, board: Board):
    """The log is oldest first."""
    steps = [(board.a, None), (None, board.c), (board.c, board.a)]
    for source, target in steps:
        with database.session_scope() as session:
            transfers.transfer_task(session, task_id=board.task, from_team_id=source, to_team_id=target)

    log = load_log(database, board.task)

    assert [(each.from_team_id, each.to_team_id) for each in log] == steps
    assert [each.note for each in log] == [None] * 3
    assert load_task(database, board.task).version == 4


@pytest.mark.parametrize("source", ["b", None])
def test_a_task_that_is_not_in_the_source_team_stays_where_it_is(
    database: Database, board: Board, source: str | None
):
    """The session stays usable, and neither half is kept."""
    with database.session_scope() as session:
        with pytest.raises(Conflict, match=f"the task is in team {board.a}, not"):
            transfers.transfer_task(
                session,
                task_id=board.task,
                from_team_id=getattr(board, source) if source else None,
                to_team_id=board.c,
            )
        assert transfers.list_transfers(session, task_id=board.task) == []

    task = load_task(database, board.task)
    assert (task.team_id, task.version) == (board.a, 1)


def test_a_transfer_that_goes_nowhere_is_invalid(database: Database, board: Board):
    with database.session_scope() as session:
        for team_id in (board.a, None):
            with pytest.raises(Invalid) as refused:
                transfers.transfer_task(session, task_id=board.task, from_team_id=team_id, to_team_id=team_id)
            assert refused.value.pointer == "/to_team_id"


@pytest.mark.parametrize("field", ["from_team_id", "to_team_id"])
def test_a_team_that_does_not_exist_is_named_as_the_fault(database: Database, board: Board, field: str):
    """Also as the source: no such team is a fault of the body, not of where the task is."""
    move: dict[str, Any] = {"from_team_id": board.a, "to_team_id": board.b} | {field: 12345}

    with database.session_scope() as session, pytest.raises(Invalid, match="no such team") as refused:
        transfers.transfer_task(session, task_id=board.task, **move)

    assert refused.value.pointer == f"/{field}"
    assert load_task(database, board.task).team_id == board.a


def test_what_is_not_there_is_not_found(database: Database, board: Board):
    with database.session_scope() as session:
        with pytest.raises(NotFound):
            transfers.transfer_task(session, task_id=ID, from_team_id=board.a, to_team_id=board.b)
        with pytest.raises(NotFound):
            transfers.list_transfers(session, task_id=ID)


def test_what_fails_afterwards_takes_both_halves_along(database: Database, board: Board, sql: RawSql):
    """The move and its audit row are the caller's transaction."""

    def move_and_fail() -> None:
        with database.session_scope() as session:
            transfers.transfer_task(session, task_id=board.task, from_team_id=board.a, to_team_id=board.b)
            raise RuntimeError("afterwards")

    with pytest.raises(RuntimeError, match="afterwards"):
        move_and_fail()

    assert load_task(database, board.task).team_id == board.a
    assert sql("SELECT count(*) AS n FROM transfers") == [{"n": 0}]


def test_of_two_transfers_at_once_the_second_finds_the_task_gone(database: Database, board: Board):
    """It waits for the first; a read without a lock would have let both have it."""
    with pytest.raises(Conflict, match=f"the task is in team {board.b}, not in team {board.a}"):
        overlapped(
            database,
            lambda session: transfers.transfer_task(
                session, task_id=board.task, from_team_id=board.a, to_team_id=board.b
            ),
            lambda session: transfers.transfer_task(
                session, task_id=board.task, from_team_id=board.a, to_team_id=board.c
            ),
        )

    assert load_task(database, board.task).team_id == board.b
    assert len(load_log(database, board.task)) == 1


def test_a_change_beside_a_transfer_loses_neither(database: Database, board: Board):
    """Two changes are two versions, in either order."""
    overlapped(
        database,
        lambda session: transfers.transfer_task(
            session, task_id=board.task, from_team_id=board.a, to_team_id=board.b
        ),
        lambda session: tasks.update_task(session, task_id=board.task, change={"bundle": "other"}),
    )

    task = load_task(database, board.task)
    assert (task.team_id, task.bundle, task.version) == (board.b, "other", 3)


def test_a_transfer_beside_a_change_loses_neither(database: Database, board: Board):
    overlapped(
        database,
        lambda session: tasks.update_task(session, task_id=board.task, change={"bundle": "other"}),
        lambda session: transfers.transfer_task(
            session, task_id=board.task, from_team_id=board.a, to_team_id=board.b
        ),
    )

    task = load_task(database, board.task)
    assert (task.team_id, task.bundle, task.version) == (board.b, "other", 3)


def test_the_log_outlives_the_teams_it_names(database: Database, board: Board):
    """Teams without tasks may go; what was, was."""
    for source, target in [(board.a, board.b), (board.b, board.c)]:
        with database.session_scope() as session:
            transfers.transfer_task(session, task_id=board.task, from_team_id=source, to_team_id=target)

    with database.session_scope() as session:
        teams.delete_team(session, team_id=board.b)

    log = load_log(database, board.task)
    assert [(each.from_team_id, each.to_team_id) for each in log] == [(board.a, board.b), (board.b, board.c)]


def test_the_log_goes_with_its_task_and_the_next_one_of_that_id_has_none(database: Database, board: Board):
    with database.session_scope() as session:
        transfers.transfer_task(session, task_id=board.task, from_team_id=board.a, to_team_id=board.b)
    with database.session_scope() as session:
        tasks.delete_task(session, task_id=board.task)
    with database.session_scope() as session:
        tasks.create_task(session, new=new_task(id=board.task))

    assert load_log(database, board.task) == []
