"""Tasks: bulk QA work that belongs to a team, or to none yet."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple, NotRequired, TypedDict

from pydantic_core import from_json
from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Row,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from db.base import Json, SerialId, UtcDateTime, new_id, now, refusals, utc_now
from db.board.base import Base
from db.board.teams import require_teams
from db.errors import Conflict, NotFound, PreconditionFailed
from db.portable.taking import take_rows
from db.portable.types import chars, empty_json

QUEUED, RUNNING, PASSED, FAILED, CANCELLED = 101, 102, 200, 400, 99
STATUSES = (QUEUED, RUNNING, PASSED, FAILED, CANCELLED)
NEXT_STATUSES = {QUEUED: {RUNNING, CANCELLED}, RUNNING: {PASSED, FAILED, QUEUED, CANCELLED}}
"""Where a status may go. What is not named here is an end."""

GRANULARITIES = ("hourly", "daily", "weekly", "monthly")
BUNDLE_CHARS_MAX = 64
CHANGE_ID_MAX = 2**31 - 1


class Task(Base):
    """A row of ``tasks``. Lives as long as the session that loaded it; every column is loaded with it."""

    __tablename__ = "tasks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    task_status: Mapped[int] = mapped_column(SmallInteger, default=QUEUED, server_default=text(str(QUEUED)))
    s3_keys: Mapped[dict[str, Any]] = mapped_column(Json(), default=dict, server_default=empty_json())
    bundle: Mapped[str] = mapped_column(String(BUNDLE_CHARS_MAX))
    granularity: Mapped[str] = mapped_column(String(8))
    target_date: Mapped[date]
    change_id: Mapped[int] = mapped_column(Integer)
    team_id: Mapped[int | None] = mapped_column(SerialId, ForeignKey("teams.id"))
    version: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())
    update_time: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, server_default=now())

    __table_args__ = (
        CheckConstraint(and_(chars(column("id")) == 32, text("id = lower(id)")), name="id"),
        CheckConstraint(f"task_status IN {STATUSES}", name="task_status"),
        CheckConstraint(chars(column("bundle")).between(1, BUNDLE_CHARS_MAX), name="bundle"),
        CheckConstraint(f"granularity IN {GRANULARITIES}", name="granularity"),
        CheckConstraint(f"change_id BETWEEN 0 AND {CHANGE_ID_MAX}", name="change_id"),
        CheckConstraint("version >= 1", name="version"),
        # The list's order, alone and below each filter: a page is read off one index and stops at its
        # limit, however many rows match and however deep the page is.
        # With the date, for a range of dates: in this order no index can begin with it, but rows outside of
        # the range are passed over here, sixty to a page, and need not be looked at in the table.
        Index(None, "create_time", "id", "target_date"),
        Index(None, "task_status", "create_time", "id"),
        Index(None, "bundle", "create_time", "id"),
        Index(None, "granularity", "create_time", "id"),
        Index(None, "team_id", "create_time", "id"),
        Index(None, "target_date", "create_time", "id"),
    )


_TABLE: Table = Task.__table__  # type: ignore[assignment]  # of a mapped class it is one
_COLUMNS = _TABLE.columns
"""Tasks are read as rows, and written by statements that are built once: with an object and its flush a
change's unit of work takes half as much again. Teams and transfers, written less often, are objects."""

_LISTED = [cast(each, Text).label(each.name) if each is _COLUMNS.s3_keys else each for each in _COLUMNS]
"""The columns of many rows, `s3_keys` as text. To parse a thousand values of 64 KiB takes seconds, and all
are parsed before a row is returned: in greenlets on the event loop. `s3_keys_of` parses one."""

_S3_KEYS = next(at for at, each in enumerate(_COLUMNS) if each is _COLUMNS.s3_keys)
"""Where it stands in these rows: an attribute of a row takes twenty times as long to look up."""

PAGE_CHARS_MAX = 4 * 1024 * 1024
"""A page of the list ends with the task whose `s3_keys` reach this size together with those before it."""

_UNMEASURED_ROWS = 64
"""So many of the largest `s3_keys` are about `PAGE_CHARS_MAX`: the database measures longer pages only."""

# The table and its columns, here and below: one attribute of the mapped class, and the ORM takes over.
_IS_ASKED_FOR = _COLUMNS.id == bindparam("task_id")
_ONE = select(*_COLUMNS).where(_IS_ASKED_FOR)
_LOCKED = _ONE.with_for_update()
_INSERT = insert(_TABLE)
_UPDATE = update(_TABLE).where(_IS_ASKED_FOR)
_DELETE = delete(_TABLE).where(_IS_ASKED_FOR)

_CONDITIONS = {
    "status": _COLUMNS.task_status == bindparam("status"),
    "bundle": _COLUMNS.bundle == bindparam("bundle"),
    "granularity": _COLUMNS.granularity == bindparam("granularity"),
    "team_id": _COLUMNS.team_id == bindparam("team_id"),
    "target_on": _COLUMNS.target_date == bindparam("target_on"),
    "target_from": _COLUMNS.target_date >= bindparam("target_from"),
    "target_to": _COLUMNS.target_date <= bindparam("target_to"),
}
"""What a filter may ask for."""

_INSERTED_AT_ONCE = 25
"""Rows of one statement. Where the event loop makes their parameters, it serves others in between: 25 take it
0.8 ms, 10,000 in one piece took 300. With more of them the garbage collector comes in as well."""

_ID_TAKEN = "a task with this id exists already"

refusals.update(
    {
        "pk_tasks": _ID_TAKEN,
        "tasks.id": _ID_TAKEN,
        "fk_tasks_team_id_teams": "the team does not exist any more, or still has tasks",
        "ck_tasks_id": "a task's id is 32 lower-case hex digits",
        "ck_tasks_task_status": f"task_status is one of {', '.join(map(str, STATUSES))}",
        "ck_tasks_bundle": f"bundle has 1 to {BUNDLE_CHARS_MAX} characters",
        "ck_tasks_granularity": f"granularity is one of {', '.join(GRANULARITIES)}",
        "ck_tasks_change_id": f"change_id is between 0 and {CHANGE_ID_MAX}",
        "ck_tasks_version": "version is 1 or more",
    }
)


class TaskRow(NamedTuple):
    """A task as it is locked or was written; what is only read has the same names in the same order."""

    id: str
    task_status: int
    s3_keys: dict[str, Any]
    bundle: str
    granularity: str
    target_date: date
    change_id: int
    team_id: int | None
    version: int
    create_time: datetime
    update_time: datetime


class NewTask(TypedDict):
    """What a new task is made of."""

    bundle: str
    granularity: str
    target_date: date
    change_id: int
    id: NotRequired[str]
    task_status: NotRequired[int]
    s3_keys: NotRequired[dict[str, Any]]
    team_id: NotRequired[int | None]


class TaskChange(TypedDict, total=False):
    """What a change of a task may name; what it leaves out stays as it is."""

    task_status: int
    s3_keys: dict[str, Any]
    bundle: str
    granularity: str
    target_date: date
    change_id: int


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """Which tasks; None is any. Both ends of the dates belong to the range."""

    status: int | None = None
    bundle: str | None = None
    granularity: str | None = None
    team_id: int | None = None
    target_from: date | None = None
    target_to: date | None = None


class Position(NamedTuple):
    """A task's place in the list. Neither part ever changes, so it stays right when the task is gone."""

    create_time: datetime
    id: str


def create_task(session: Session, *, new: NewTask) -> TaskRow:
    """Add a task. An id that is taken is refused here.

    Returns:
        What was written: it need not be read back.

    Raises:
        Invalid: the team does not exist. The session stays usable.
        Conflict: the id is taken. The database says so, and the transaction can only be rolled back.
    """
    require_teams(session, team_id=new.get("team_id"))
    values = _row_of(new, utc_now())
    session.execute(_INSERT, values)
    return TaskRow(**values)


def create_tasks(session: Session, *, new: Sequence[NewTask]) -> list[str]:
    """Add many tasks, all or none, some in each statement.

    Returns:
        Their ids, in the order of ``new``.

    Raises:
        Invalid: teams do not exist; with a pointer to each. The session stays usable.
        Conflict: an id is taken. The database says so, and the transaction can only be rolled back.
    """
    teams = ((at, task.get("team_id")) for at, task in enumerate(new))
    require_teams(session, **{f"items/{at}/team_id": team_id for at, team_id in teams if team_id is not None})
    moment = utc_now()
    ids: list[str] = []
    for at in range(0, len(new), _INSERTED_AT_ONCE):
        rows = [_row_of(task, moment) for task in new[at : at + _INSERTED_AT_ONCE]]
        session.execute(_INSERT, rows)
        ids += [row["id"] for row in rows]
    return ids


def claim_tasks(session: Session, *, limit: int, team_id: int | None = None) -> Sequence[Row[Any]]:
    """Take the oldest queued tasks: they are running now, and no other caller is given them.

    Args:
        limit: how many at most.
        team_id: of this team only; None is of any team, and of none.

    Returns:
        Their rows, with `s3_keys` as text: `s3_keys_of`. A page does not end early here: all that is
        claimed is returned.
    """
    moment = utc_now()
    where = [Task.task_status == QUEUED]
    if team_id is not None:
        where.append(Task.team_id == team_id)
    taken = take_rows(
        session,
        Task,
        columns=_LISTED,
        where=where,
        order_by=[Task.create_time, Task.id],
        limit=limit,
        values={
            Task.task_status: RUNNING,
            Task.version: Task.version + 1,
            Task.update_time: case((Task.update_time < moment, moment), else_=Task.update_time),
        },
    )
    return sorted(taken, key=lambda task: (task.create_time, task.id))


def stream_tasks(session: Session, *, where: TaskFilter, page_size: int) -> Iterator[Sequence[Row[Any]]]:
    """All tasks in the order of their ids, a page of rows at a time, read as they are asked for.

    Opens a server-side cursor at the first page: the session has to be in a transaction, and every page
    is asked for in it. Rows, not tasks: a million objects would cost more than what is done with them.
    Their `s3_keys` are text: `s3_keys_of`.
    """
    given = _given(where)
    statement = select(*_LISTED).where(*(_CONDITIONS[name] for name in given)).order_by(_COLUMNS.id)
    yield from session.execute(statement, given, execution_options={"yield_per": page_size}).partitions()


def find_task(session: Session, *, task_id: str) -> Row[Any] | None:
    """The task's row, or None."""
    return session.execute(_ONE, {"task_id": task_id}).one_or_none()


def get_task(session: Session, *, task_id: str) -> Row[Any]:
    """The task's row. To change it, begin with `lock_task`.

    Raises:
        NotFound: no such task. The session stays usable.
    """
    task = find_task(session, task_id=task_id)
    if task is None:
        raise NotFound("task", task_id)
    return task


def lock_task(session: Session, *, task_id: str) -> TaskRow:
    """The task as it stands now, not to be changed by others before this transaction ends.

    A function that reads a task in order to change it begins here: between a plain read and the write
    another transaction could have its say, and would be overwritten.

    Raises:
        NotFound: no such task. The session stays usable.
    """
    # SQLite has no such lock and drops the clause; its writers have the whole file from BEGIN on.
    row = session.execute(_LOCKED, {"task_id": task_id}).one_or_none()
    if row is None:
        raise NotFound("task", task_id)
    return TaskRow._make(row)


def list_tasks(
    session: Session, *, where: TaskFilter = TaskFilter(), limit: int = 50, after: Position | None = None
) -> Sequence[Row[Any]]:
    """The rows of tasks, newest first (`create_time`, then `id`), with `s3_keys` as text: `s3_keys_of`.

    Args:
        where: which of them.
        limit: how many at most. Where their `s3_keys` are large there are fewer, but always one more than
            are in `page_of` these rows, unless the list ends.
        after: the list goes on behind this place.
    """
    values: dict[str, Any] = {**_given(where), "limit": limit}
    statement = _page_of(tuple(values), after is not None, limit > _UNMEASURED_ROWS + 1)
    if after is not None:
        values |= {"after_time": after.create_time, "after_id": after.id}
    return session.execute(statement, values).all()


def page_of(rows: Sequence[Row[Any]], limit: int) -> Sequence[Row[Any]]:
    """The rows of `list_tasks` that belong to one page; at least one, where there is one.

    Args:
        rows: as they were returned for one more than ``limit``. If there are more of them than are
            returned here, the list goes on.
        limit: how many at most.
    """
    size = 0
    page = rows[:limit]
    for number, row in enumerate(page):
        if size >= PAGE_CHARS_MAX:
            return page[:number]
        size += len(row[_S3_KEYS])
    return page


def s3_keys_of(row: Row[Any]) -> Any:
    """The value of `s3_keys` in a row that has it as text."""
    try:
        return from_json(row[_S3_KEYS])
    except ValueError:  # nested more deeply than that reader goes
        return json.loads(row[_S3_KEYS])


def update_task(
    session: Session, *, task_id: str, change: TaskChange, expected: Callable[[TaskRow], bool] | None = None
) -> TaskRow:
    """Change what ``change`` names. What it finds as it should be moves nothing, not even `version`.

    Args:
        expected: whether the task, as it stands now, is what the caller takes it for.

    Returns:
        The task as it is now: it need not be read back.

    Raises:
        NotFound: no such task. The session stays usable.
        Stale: it is not what was expected. The session stays usable.
        Conflict: its status may not go there. The session stays usable.
    """
    task = lock_task(session, task_id=task_id)
    _require(task, expected)
    status = change.get("task_status", task.task_status)
    if status != task.task_status and status not in NEXT_STATUSES.get(task.task_status, ()):
        raise Conflict(f"a task cannot go from status {task.task_status} to {status}")
    return change_locked(session, task, change)


def change_locked(session: Session, task: TaskRow, change: Mapping[str, Any]) -> TaskRow:
    """Write the values of ``change`` that the task has not yet: `version` counts on, `update_time` moves.

    Args:
        task: as `lock_task` has returned it in this transaction.
        change: by the columns' names.

    Returns:
        The task as it is now.
    """
    changed = {
        name: value
        for name, value in change.items()
        if not _COLUMNS[name].type.compare_values(getattr(task, name), value)
    }
    if changed:
        changed["version"] = task.version + 1
        # Always forward, also where this machine's clock stands still or runs behind the last writer's.
        changed["update_time"] = max(utc_now(), task.update_time + timedelta(microseconds=1))
        session.execute(_UPDATE, {"task_id": task.id, **changed})
    return task._replace(**changed)


def delete_task(session: Session, *, task_id: str, expected: Callable[[TaskRow], bool] | None = None) -> None:
    """Take a task away, and the log of its transfers with it.

    The log goes because ids may be used again: it would be read as the log of the next task of this id.

    Raises:
        NotFound: no such task. The session stays usable.
        Stale: it is not what was expected. The session stays usable.
    """
    task = lock_task(session, task_id=task_id)
    _require(task, expected)
    session.execute(_DELETE, {"task_id": task_id})


def _row_of(new: NewTask, moment: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "task_status": QUEUED,
        "s3_keys": {},
        "team_id": None,
        "version": 1,
        "create_time": moment,
        "update_time": moment,
        **new,
    }


def _require(task: TaskRow, expected: Callable[[TaskRow], bool] | None) -> None:
    if expected is not None and not expected(task):
        raise PreconditionFailed("the task has changed since")


def _given(where: TaskFilter) -> dict[str, Any]:
    """What a filter asks for: names of `_CONDITIONS`, and their values."""
    given = {name: value for name, value in vars(where).items() if value is not None}
    if where.target_from is not None and where.target_from == where.target_to:
        # One day: its own index has it in the list's order.
        given["target_on"] = given.pop("target_from")
        del given["target_to"]
    return given


@functools.cache
def _page_of(names: tuple[str, ...], goes_on: bool, measured: bool) -> Select[Any]:
    """The list's statement for these filters. Built once: to build it costs more than to run it."""
    statement = select(*_LISTED).where(*(_CONDITIONS[name] for name in names if name in _CONDITIONS))
    if goes_on:
        after = tuple_(bindparam("after_time", type_=UtcDateTime), bindparam("after_id", type_=String))
        statement = statement.where(tuple_(_COLUMNS.create_time, _COLUMNS.id) < after)
    newest_first = statement.order_by(_COLUMNS.create_time.desc(), _COLUMNS.id.desc())
    page = newest_first.limit(bindparam("limit", type_=Integer))
    return _measured(page) if measured else page


def _measured(statement: Select[Any]) -> Select[Any]:
    """A page that ends one row behind `page_of` it: what is not shown is not sent by the database.

    The limit stands in a query of its own: MariaDB numbers all rows of the query that has the window.
    """
    page = statement.subquery("page")
    order = page.c.create_time.desc(), page.c.id.desc()
    before = func.sum(chars(page.c.s3_keys)).over(order_by=order, rows=(None, -2))
    sized = select(page, func.coalesce(before, 0).label("chars_before")).subquery("sized")
    shown = [sized.c[each.name] for each in page.c]
    newest_first = select(*shown).order_by(sized.c.create_time.desc(), sized.c.id.desc())
    return newest_first.where(sized.c.chars_before < PAGE_CHARS_MAX)
