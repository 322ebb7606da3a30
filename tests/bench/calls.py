"""The calls that are measured: how each is asked, and what its answer has to be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.bench import rows
from tests.bench.databases import count_tasks
from tests.bench.load import Answer, Load, request

LIST_LENGTH = 20
BULK_LENGTH = 1_000


class WrongAnswer(Exception):
    """A server does not answer as the others do: what it is measured at would be something else."""


class Board:
    """What the load knows of one server's board. Lives as long as that server.

    Args:
        url: of its database.
        tasks: how many it had at the beginning.
        refusals: whether it answers mistakes right.
    """

    def __init__(self, url: str, tasks: int, *, refusals: bool = True) -> None:
        self.tasks = tasks
        self.refusals = refusals
        self.added = 0
        self.turn = itertools.count(1)
        self._url = url

    def check_count(self) -> None:
        """See to it that the database has every task that was acknowledged, and no other.

        Raises:
            WrongAnswer: it has not.
        """
        _same(count_tasks(self._url), self.tasks + self.added, "the number of tasks in the database")


class Call(NamedTuple):
    """One kind of call. A constant."""

    name: str
    label: str
    status: int
    requests: int
    """How many a round has, by default."""

    ask: Callable[[Board], bytes]
    check: Callable[[Load, Board], None]
    rows: int = 1
    """How many rows a request is about."""

    adds: bool = False
    connections: int | None = None
    """Where the load's own number would be too much."""

    def requests_of(self, board: Board, number: int) -> Iterator[bytes]:
        """So many requests, made before the first is sent."""
        made = [self.ask(board) for _ in range(number)]
        if self.adds:
            board.added += number * self.rows
        return iter(made)


def _some(board: Board) -> int:
    """The number of a task: another one each time, all over the table."""
    return next(board.turn) * 7919 % board.tasks + 1


def _ask_one(board: Board) -> bytes:
    return request("GET", f"/tasks/{rows.task_id(_some(board))}")


def _ask_list(board: Board) -> bytes:
    return request("GET", f"/tasks?limit={LIST_LENGTH}")


def _ask_create(board: Board) -> bytes:
    return request("POST", "/tasks", rows.NEW)


def _ask_patch(board: Board) -> bytes:
    turn = next(board.turn)
    return request("PATCH", f"/tasks/{rows.task_id(turn % board.tasks + 1)}", {"change_id": 1_000_000 + turn})


def _ask_bulk(board: Board) -> bytes:
    return _BULK


def _ask_export(board: Board) -> bytes:
    return request("GET", "/tasks/export")


_WRONG: tuple[dict[str, Any], ...] = (
    {"bundle": ""},
    {"granularity": "yearly"},
    {"target_date": "20200401"},
    {"change_id": -1},
    {"change_id": "3"},
    {"s3_keys": []},
    {"team_id": 99},
    {"colour": "red"},
)
_BULK = request("POST", "/tasks/bulk", {"items": [rows.NEW] * BULK_LENGTH})


def _check_one(load: Load, board: Board) -> None:
    for number in (1, board.tasks):
        _same(_json(load.ask(request("GET", f"/tasks/{rows.task_id(number)}"))), rows.task(number), "a task")
    _refused(load, board, request("GET", f"/tasks/{'0' * 32}"), 404)


def _check_list(load: Load, board: Board) -> None:
    newest = list(range(board.tasks, board.tasks - 2 * LIST_LENGTH, -1))
    page = _json(load.ask(_ask_list(board)))
    _same(page["items"], [rows.task(number) for number in newest[:LIST_LENGTH]], "a page")
    _same(set(page), {"items", "next_cursor"}, "a page's members")
    following = request("GET", f"/tasks?limit={LIST_LENGTH}&cursor={page['next_cursor']}")
    expected = [rows.task(number) for number in newest[LIST_LENGTH:]]
    _same(_json(load.ask(following))["items"], expected, "the page after it")
    none = _json(load.ask(request("GET", "/tasks?status=200")))
    _same(none["items"], [], "a page of a status that none has")
    for wrong in ("limit=0", "limit=many", "colour=red", "status=7"):
        _refused(load, board, request("GET", f"/tasks?{wrong}"), 400, 422)


def _check_create(load: Load, board: Board) -> None:
    task = _json(load.ask(_ask_create(board)), 201)
    board.added += 1
    expected = rows.task(1) | {"s3_keys": {}} | rows.NEW
    own = {name: task.get(name) for name in ("id", "create_time", "update_time")}
    _same(task, expected | own, "a new task")
    _same(_json(load.ask(request("GET", f"/tasks/{task['id']}"))), task, "a new task, read again")
    given = rows.NEW | {"id": task["id"]}
    _refused(load, board, request("POST", "/tasks", given), 409)
    for wrong in _WRONG:
        _refused(load, board, request("POST", "/tasks", rows.NEW | wrong), 422)


def _check_patch(load: Load, board: Board) -> None:
    before = rows.task(board.tasks)
    path = f"/tasks/{before['id']}"
    task = _json(load.ask(request("PATCH", path, {"change_id": 4})))
    expected = before | {"change_id": 4, "version": 2, "update_time": task.get("update_time")}
    _same(task, expected, "a changed task")
    if task["update_time"] == before["update_time"]:
        raise WrongAnswer("a changed task has its old update_time")
    _same(_json(load.ask(request("GET", path))), task, "a changed task, read again")
    _same(_json(load.ask(request("PATCH", path, {}))), task, "a task of which nothing was changed")
    _refused(load, board, request("PATCH", path, {"task_status": 200}), 409)
    _refused(load, board, request("PATCH", path, {"change_id": -1}), 422)
    _refused(load, board, request("PATCH", f"/tasks/{'0' * 32}", {"change_id": 4}), 404)


def _check_bulk(load: Load, board: Board) -> None:
    created = _json(load.ask(_BULK), 201)
    board.added += BULK_LENGTH
    _same(created["created"], BULK_LENGTH, "the number of tasks of a bulk")
    _same(len(set(created["ids"])), BULK_LENGTH, "the number of its ids")
    task = _json(load.ask(request("GET", f"/tasks/{created['ids'][-1]}")))
    _same({name: task[name] for name in rows.NEW}, rows.NEW, "a task of a bulk")
    _refused(load, board, request("POST", "/tasks/bulk", {"items": [rows.NEW, {}]}), 422)
    board.check_count()


def _check_export(load: Load, board: Board) -> None:
    answer = load.ask(_ask_export(board))
    lines = answer.body.splitlines()
    _same(answer.status, 200, "the status of an export")
    ids = sorted(rows.task_id(number) for number in range(1, board.tasks + 1))
    found = [json.loads(line) for line in lines]
    _same([task["id"] for task in found], ids, "the ids of an export")
    first = next(number for number in itertools.count(1) if rows.task_id(number) == ids[0])
    _same(found[0], rows.task(first), "the first task of an export")


# In this order: the first ones find the tables as they were made.
CALLS = {
    call.name: call
    for call in (
        Call("one", "one row", 200, 1500, _ask_one, _check_one),
        Call("list", f"list of {LIST_LENGTH}", 200, 1000, _ask_list, _check_list),
        Call("export", "export", 200, 1, _ask_export, _check_export, connections=1),
        Call("patch", "patch", 200, 1000, _ask_patch, _check_patch),
        Call("create", "create", 201, 1000, _ask_create, _check_create, adds=True),
        Call("bulk", f"bulk of {BULK_LENGTH:,}", 201, 10, _ask_bulk, _check_bulk, BULK_LENGTH, adds=True),
    )
}


def _json(answer: Answer, status: int = 200) -> Any:
    if answer.status != status:
        raise WrongAnswer(f"not {status} but {answer.status}: {answer.body[:300].decode(errors='replace')}")
    return answer.json


def _refused(load: Load, board: Board, content: bytes, *statuses: int) -> None:
    if not board.refusals:
        return
    answer = load.ask(content)
    if answer.status not in statuses:
        told = content.decode(errors="replace")[:300]
        raise WrongAnswer(f"not {' or '.join(map(str, statuses))} but {answer.status} to {told!r}")


def _same(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise WrongAnswer(f"{what} is not {str(expected)[:500]} but {str(found)[:500]}")
