"""Tasks: the model functions, on real databases."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from db import Database
from db.board import tasks
from db.board.tasks import NEXT_STATUSES, PAGE_CHARS_MAX, STATUSES, Position, Task, TaskChange, TaskFilter
from db.errors import Conflict, Invalid, NotFound
from tests.fixtures.board.rows import add_task, add_team, load_task, new_task, overlapped
from tests.fixtures.databases import RawSql

ID = "f2ee55c638084ebfb35a00c003670ad9"

S3_KEYS: list[dict[str, Any]] = [
    {},
    {"a": {"b": [1, 2.5, None, True, False, "x", {}, []]}},
    {"": "", "ключ": "значение", "🚀": "\u2028\x01\x7f", "'; DROP TABLE tasks; --": '"\\%s:name'},
    {"int64": 2**63 - 1, "beyond": -(10**30), "double": 0.1, "tiny": 5e-324, "one": 1.0},
]


def test_a_task_that_was_created_is_found_as_it_was_made(database: Database):
    team_id = add_team(database, "a")

    with database.session_scope() as session:
        made = tasks.create_task(
            session,
            new=new_task(id=ID, task_status=400, s3_keys={"k": [1]}, team_id=team_id, change_id=2**31 - 1),
        )

    task = load_task(database, ID)
    assert (task.id, task.task_status, task.s3_keys, task.team_id) == (ID, 400, {"k": [1]}, team_id)
    assert (task.bundle, task.granularity, task.target_date) == ("store", "daily", date(2020, 4, 1))
    assert (task.change_id, task.version) == (2**31 - 1, 1)
    assert task.create_time == task.update_time == made.create_time
    assert abs(datetime.now(UTC) - task.create_time) < timedelta(minutes=1)


def test_what_is_left_out_has_its_default(database: Database):
    task = load_task(database, add_task(database))

    assert len(task.id) == 32
    assert (task.task_status, task.s3_keys, task.team_id, task.version) == (101, {}, None, 1)


@pytest.mark.parametrize("s3_keys", S3_KEYS, ids=range(len(S3_KEYS)))
def test_any_json_object_comes_back_as_it_went(database: Database, s3_keys: dict[str, Any]):
    task = load_task(database, add_task(database, s3_keys=s3_keys))

    assert task.s3_keys == s3_keys
    assert str(task.s3_keys.get("one")) == str(s3_keys.get("one"))  # 1.0 is no 1


def test_an_id_that_is_taken_is_refused_by_the_database(database: Database, sql: RawSql):
    """The refusal says so in words, and nothing of the transaction is kept."""
    add_task(database, id=ID)

    def create_two() -> None:
        with database.session_scope() as session:
            tasks.create_task(session, new=new_task())
            tasks.create_task(session, new=new_task(id=ID))

    with pytest.raises(Conflict, match="a task with this id exists already"):
        create_two()

    assert sql("SELECT id FROM tasks") == [{"id": ID}]


def test_of_two_tasks_with_one_id_created_at_once_one_is_refused(database: Database):
    with pytest.raises(Conflict, match="a task with this id exists already"):
        overlapped(
            database,
            lambda session: tasks.create_task(session, new=new_task(id=ID)),
            lambda session: tasks.create_task(session, new=new_task(id=ID)),
        )


def test_a_team_that_does_not_exist_is_named_as_the_fault(database: Database):
    """The session stays usable."""
    with database.session_scope() as session:
        with pytest.raises(Invalid, match="there is no such team") as refused:
            tasks.create_task(session, new=new_task(team_id=2**63 - 1))
        assert tasks.list_tasks(session) == []

    assert refused.value.pointer == "/team_id"


def test_what_is_not_there_is_not_found(database: Database):
    """Each function says so, and the session stays usable."""
    with database.session_scope() as session:
        assert tasks.find_task(session, task_id=ID) is None
        with pytest.raises(NotFound, match=f"no task {ID}"):
            tasks.get_task(session, task_id=ID)
        with pytest.raises(NotFound):
            tasks.update_task(session, task_id=ID, change={"bundle": "x"})
        with pytest.raises(NotFound):
            tasks.delete_task(session, task_id=ID)

        assert tasks.list_tasks(session) == []


def test_a_status_goes_where_the_table_says_and_nowhere_else(database: Database, subtests: pytest.Subtests):
    allowed = {(101, 102), (101, 99), (102, 200), (102, 400), (102, 101), (102, 99)}
    for start, end in itertools.permutations(STATUSES, 2):
        with subtests.test(f"{start} to {end}"):
            task_id = add_task(database, task_status=start)

            with database.session_scope() as session:
                if (start, end) in allowed:
                    change: TaskChange = {"task_status": end}
                    assert tasks.update_task(session, task_id=task_id, change=change).version == 2
                else:
                    change = {"task_status": end, "bundle": "other"}
                    with pytest.raises(Conflict, match=f"cannot go from status {start} to {end}"):
                        tasks.update_task(session, task_id=task_id, change=change)

            task = load_task(database, task_id)
            assert task.task_status == (end if (start, end) in allowed else start)
            assert task.bundle == "store"


def test_the_table_of_statuses_names_none_but_statuses():
    assert {*NEXT_STATUSES, *itertools.chain(*NEXT_STATUSES.values())} <= {*STATUSES}


CHANGES: list[TaskChange] = [
    {"task_status": 102},
    {"s3_keys": {"a": 1}},
    {"bundle": "other"},
    {"granularity": "hourly"},
    {"target_date": date(1999, 12, 31)},
    {"change_id": 0},
    {"bundle": "other", "change_id": 4},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_is_kept_and_counted_once(database: Database, change: TaskChange):
    """`version` counts one on whatever the number of fields; `update_time` moves, `create_time` does not."""
    before = load_task(database, add_task(database))

    with database.session_scope() as session:
        tasks.update_task(session, task_id=before.id, change=change)

    after = load_task(database, before.id)
    assert {name: getattr(after, name) for name in change} == change
    assert after.version == 2
    assert after.update_time > before.update_time
    assert after.create_time == before.create_time


def test_a_change_makes_no_object_of_the_session(database: Database):
    """Objects and their flush take the unit of work half as much again."""
    task_id = add_task(database)

    with database.session_scope() as session:
        task = tasks.update_task(session, task_id=task_id, change={"bundle": "other"})
        held = session.identity_map.values()

    assert task.bundle == "other"
    assert held == []


UNCHANGES: list[TaskChange] = [
    {},
    {"task_status": 101},
    {"bundle": "store", "granularity": "daily", "target_date": date(2020, 4, 1), "change_id": 3},
    {"s3_keys": {"a": [1, {"b": None}], "z": 1e300}},
    {"s3_keys": {"z": 1e300, "a": [1, {"b": None}]}},
]


@pytest.mark.parametrize("change", UNCHANGES, ids=str)
def test_a_change_that_changes_nothing_moves_nothing(database: Database, sql: RawSql, change: TaskChange):
    task_id = add_task(database, s3_keys={"a": [1, {"b": None}], "z": 1e300})
    before = sql("SELECT * FROM tasks")

    with database.session_scope() as session:
        task = tasks.update_task(session, task_id=task_id, change=change)

    assert task.version == 1
    assert sql("SELECT * FROM tasks") == before


LOOKS_THE_SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"a": 1}, {"a": True}),
    ({"a": 0}, {"a": False}),
    ({"a": [1]}, {"a": [True]}),
    ({"a": None}, {}),
    ({"a": [1, 2]}, {"a": [2, 1]}),
    ({"a": "1"}, {"a": 1}),
    ({"a": 2**53}, {"a": 2**53 + 1}),
]


@pytest.mark.parametrize(("old", "new"), LOOKS_THE_SAME, ids=str)
def test_what_python_calls_equal_and_json_does_not_is_a_change(
    database: Database, old: dict[str, Any], new: dict[str, Any]
):
    task_id = add_task(database, s3_keys=old)

    with database.session_scope() as session:
        tasks.update_task(session, task_id=task_id, change={"s3_keys": new})

    task = load_task(database, task_id)
    assert task.version == 2
    assert repr(task.s3_keys) == repr(new)


def test_update_time_never_goes_back(database: Database, sql: RawSql):
    """Not even where the last writer's clock ran ahead of this one's."""
    task_id = add_task(database)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    with database.session_scope() as session:
        session.get_one(Task, task_id).update_time = ahead

    for bundle in ("one", "two"):
        with database.session_scope() as session:
            tasks.update_task(session, task_id=task_id, change={"bundle": bundle})

    task = load_task(database, task_id)
    assert task.version == 3
    assert task.update_time == ahead + timedelta(microseconds=2)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_change_builds_on_what_others_have_committed_not_on_what_this_session_read_before(
    database: Database, sql: RawSql
):
    """A row is read again, under its lock. On SQLite there is no other writer once one has begun."""
    task_id = add_task(database)
    with database.session_scope() as session:
        read = tasks.get_task(session, task_id=task_id)
        sql("UPDATE tasks SET version = 7, task_status = 200")
        assert read.version == 1

        with pytest.raises(Conflict, match="cannot go from status 200"):
            tasks.update_task(session, task_id=task_id, change={"task_status": 102})
        tasks.update_task(session, task_id=task_id, change={"bundle": "other"})

    assert load_task(database, task_id).version == 8


def test_two_changes_at_once_are_both_kept(database: Database):
    """The second waits for the first, and counts on from there."""
    task_id = add_task(database)

    overlapped(
        database,
        lambda session: tasks.update_task(session, task_id=task_id, change={"bundle": "other"}),
        lambda session: tasks.update_task(session, task_id=task_id, change={"change_id": 9}),
    )

    task = load_task(database, task_id)
    assert (task.bundle, task.change_id, task.version) == ("other", 9, 3)


def test_of_two_changes_of_a_queued_task_at_once_one_is_refused(database: Database):
    task_id = add_task(database)

    with pytest.raises(Conflict, match="cannot go from status 99 to 102"):
        overlapped(
            database,
            lambda session: tasks.update_task(session, task_id=task_id, change={"task_status": 99}),
            lambda session: tasks.update_task(session, task_id=task_id, change={"task_status": 102}),
        )


def test_a_task_that_is_deleted_while_a_change_waits_for_it_is_not_found(database: Database):
    task_id = add_task(database)

    with pytest.raises(NotFound):
        overlapped(
            database,
            lambda session: tasks.delete_task(session, task_id=task_id),
            lambda session: tasks.update_task(session, task_id=task_id, change={"bundle": "other"}),
        )


def test_the_database_itself_refuses_what_is_out_of_range(database: Database, sql: RawSql):
    """A row that was not checked as a body violates a constraint, whose error is a sentence."""
    faulty: list[dict[str, Any]] = [
        {"id": "F" * 32},
        {"id": "f" * 31},
        {"task_status": 103},
        {"bundle": ""},
        {"granularity": "yearly"},
        {"change_id": -1},
    ]
    for fields in faulty:
        (name,) = fields
        with pytest.raises(Conflict, match=name.removeprefix("task's ")), database.session_scope() as session:
            tasks.create_task(session, new=new_task(**fields))

    assert sql("SELECT count(*) AS n FROM tasks") == [{"n": 0}]


# -- the list

START = datetime(2020, 1, 1, tzinfo=UTC)


def add_board(database: Database, sql: RawSql, *, size: int = 60) -> list[Task]:
    """Tasks that differ in everything that can be filtered by, four to a moment; newest first."""
    team_id = add_team(database, "a")
    with database.session_scope() as session:
        rows = [
            Task(
                **new_task(
                    task_status=STATUSES[number % 5],
                    bundle=f"bundle {number % 3}",
                    granularity=tasks.GRANULARITIES[number % 4],
                    team_id=team_id if number % 2 else None,
                    target_date=date(2020, 1, 1 + number % 20),
                ),
                create_time=START + timedelta(microseconds=number // 4),
            )
            for number in range(size)
        ]
        session.add_all(rows)
    return sorted(rows, key=lambda task: (task.create_time, task.id), reverse=True)


def test_the_list_is_newest_first_by_time_and_then_by_id(database: Database, sql: RawSql):
    board = add_board(database, sql)

    with database.session_scope(read_only=True) as session:
        everything = [task.id for task in tasks.list_tasks(session, limit=1000)]
        first = [task.id for task in tasks.list_tasks(session, limit=7)]

    assert everything == [task.id for task in board]
    assert first == everything[:7]


FILTERS: list[dict[str, Any]] = [
    {"status": 102},
    {"bundle": "bundle 1"},
    {"granularity": "weekly"},
    {"team_id": 1},
    {"target_from": date(2020, 1, 11)},
    {"target_to": date(2020, 1, 10)},
    {"target_from": date(2020, 1, 5), "target_to": date(2020, 1, 5)},
    {"status": 101, "team_id": 1, "target_from": date(2020, 1, 2), "bundle": "bundle 2"},
    {"bundle": "' OR 1=1 --"},
    {"target_from": date(2020, 1, 6), "target_to": date(2020, 1, 5)},
]


@pytest.mark.parametrize("fields", FILTERS, ids=str)
def test_each_filter_shows_what_it_says_in_pages_as_in_one(
    database: Database, sql: RawSql, fields: dict[str, Any]
):
    """Walked in pages of three, the list is the same as Python finds in all of the board."""
    board = add_board(database, sql)
    where = TaskFilter(**fields)
    expected = [
        task.id
        for task in board
        if (where.status is None or task.task_status == where.status)
        and (where.bundle is None or task.bundle == where.bundle)
        and (where.granularity is None or task.granularity == where.granularity)
        and (where.team_id is None or task.team_id == where.team_id)
        and (where.target_from is None or task.target_date >= where.target_from)
        and (where.target_to is None or task.target_date <= where.target_to)
    ]

    found: list[str] = []
    after = None
    with database.session_scope(read_only=True) as session:
        while page := tasks.list_tasks(session, where=where, limit=3, after=after):
            found += [task.id for task in page]
            after = Position(page[-1].create_time, page[-1].id)
            assert len(found) <= len(board), "the walk goes in circles"

    assert found == expected


def test_a_page_goes_on_where_the_last_one_ended_though_its_last_row_is_gone(database: Database, sql: RawSql):
    """And though newer tasks have come meanwhile."""
    board = add_board(database, sql)
    last = board[9]
    with database.session_scope() as session:
        tasks.delete_task(session, task_id=last.id)
        tasks.create_task(session, new=new_task())

    with database.session_scope(read_only=True) as session:
        page = [
            each.id for each in tasks.list_tasks(session, limit=5, after=Position(last.create_time, last.id))
        ]

    assert page == [task.id for task in board[10:15]]


@pytest.mark.parametrize("limit", [10, 1000])
@pytest.mark.parametrize("filling", ["x", "\u00fc", "\U0001f680"])
def test_a_page_ends_with_the_task_that_fills_it_and_one_row_behind_it_is_read(
    database: Database, sql: RawSql, limit: int, filling: str
):
    """Characters are counted, by the database as here; also of a text that another program has written."""
    board = add_board(database, sql, size=12)  # megabytes each
    text = json.dumps({"a": filling * (PAGE_CHARS_MAX // 4)}, ensure_ascii=False)
    sql("UPDATE tasks SET s3_keys = :text", text=text)

    with database.session_scope(read_only=True) as session:
        rows = tasks.list_tasks(session, limit=limit + 1)
        page = tasks.page_of(rows, limit)

    assert [row.id for row in page] == [task.id for task in board[:4]]
    assert rows[0].s3_keys == text
    assert len(rows) == (5 if limit == 1000 else limit + 1)


@pytest.mark.parametrize("limit", [10, 1000])
def test_a_page_has_one_task_however_large(database: Database, sql: RawSql, limit: int):
    board = add_board(database, sql, size=12)  # megabytes each
    sql("UPDATE tasks SET s3_keys = :text", text=json.dumps({"a": "x" * PAGE_CHARS_MAX}))

    with database.session_scope(read_only=True) as session:
        rows = tasks.list_tasks(session, limit=limit + 1)
        page = tasks.page_of(rows, limit)

    assert [row.id for row in page] == [board[0].id]
    assert len(rows) > 1


def test_a_deleted_task_is_gone(database: Database):
    task_id = add_task(database)

    with database.session_scope() as session:
        tasks.delete_task(session, task_id=task_id)

    with database.session_scope(read_only=True) as session:
        assert session.scalars(select(Task)).all() == []
