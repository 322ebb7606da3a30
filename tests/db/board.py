"""Rows that the tests of model functions begin with, and two transactions that overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from db import Database
from db.board import tasks, teams, transfers
from db.board.tasks import NewTask, Task
from db.board.transfers import Transfer

T = TypeVar("T")

HELD_S = 0.3
"""How long the first of two transactions stays open under the second: long enough for one that does not
wait to be seen ending."""


def new_task(**fields: Any) -> NewTask:
    """What a task is made of, with some fields of one's own."""
    new = NewTask(bundle="store", granularity="daily", target_date=date(2020, 4, 1), change_id=3)
    new.update(fields)  # type: ignore[typeddict-item]
    return new


def add_task(database: Database, **fields: Any) -> str:
    """A task that is there, committed; its id."""
    with database.session_scope() as session:
        return tasks.create_task(session, new=new_task(**fields)).id


def add_team(database: Database, name: str) -> int:
    """A team that is there, committed; its id."""
    with database.session_scope() as session:
        return teams.create_team(session, name=name).id


def load_task(database: Database, task_id: str) -> Task:
    """The task as another transaction sees it."""
    with database.session_scope(read_only=True) as session:
        task = session.get_one(Task, task_id)
        session.expunge(task)  # it stays as it was loaded when the session has gone
        return task


def load_log(database: Database, task_id: str) -> Sequence[Transfer]:
    """The task's transfers as another transaction sees them."""
    with database.session_scope(read_only=True) as session:
        log = transfers.list_transfers(session, task_id=task_id)
        session.expunge_all()
        return log


def overlapped(database: Database, first: Callable[[Session], object], second: Callable[[Session], T]) -> T:
    """Two transactions, each in a thread of its own: the second begins while the first is not committed.

    Returns:
        What ``second`` returned, or it raises what that raised.
    """

    def in_a_scope() -> T:
        with database.session_scope() as session:
            return second(session)

    with ThreadPoolExecutor(1) as thread:
        with database.session_scope() as session:
            first(session)
            future = thread.submit(in_a_scope)
            wait([future], timeout=HELD_S)
            assert not future.done(), "the second did not wait for the first"
        return future.result(timeout=10)
