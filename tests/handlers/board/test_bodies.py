"""Bodies of requests: every rule of every field, without a server."""

from __future__ import annotations

import asyncio
import json
import typing
from datetime import date
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, RequestHandler

from db.board import tasks
from handlers.board import requests
from handlers.board.requests import BULK_MAX, TaskChange, TaskNew, TasksNew
from handlers.board.teams import TeamChange, TeamNew
from handlers.board.transfers import TransferNew
from handlers.json_api import body as bodies
from handlers.json_api.body import Body, check, read_body
from handlers.json_api.errors import FAULTS_MAX
from handlers.lifecycle.errors import Problem

TASK: dict[str, Any] = {
    "bundle": "store",
    "granularity": "daily",
    "target_date": "2020-04-01",
    "change_id": 3,
}
MOVE: dict[str, Any] = {"from_team_id": 1, "to_team_id": None}


def ascii_id(value: Any) -> str:
    """A parameter as a test's name: short, and printable."""
    return value.__name__ if isinstance(value, type) else ascii(value)[:40]


def faults(model: type[Body], value: Any) -> dict[str, str]:
    """What is wrong with a body: message by pointer."""
    with pytest.raises(Problem) as refused:
        check(model, value)
    assert refused.value.status_code == 422
    assert refused.value.errors
    return {fault["pointer"]: fault["message"] for fault in refused.value.errors}


def test_a_task_is_read_as_python_values():
    body = TASK | {"id": "0" * 32, "task_status": 99, "s3_keys": {"a": [1]}, "team_id": 7}

    assert check(TaskNew, body).new() == body | {"target_date": date(2020, 4, 1)}


def test_what_was_left_out_is_left_to_the_model_function():
    assert set(check(TaskNew, TASK).new()) == set(TASK)
    assert check(TaskChange, {}).change() == {}
    assert check(TeamChange, {}).given() == {}
    assert check(TaskNew, TASK | {"team_id": None}).new()["team_id"] is None


GOOD: list[tuple[type[Body], dict[str, Any]]] = [
    *[(TaskNew, TASK | {"task_status": status}) for status in tasks.STATUSES],
    *[(TaskNew, TASK | {"granularity": granularity}) for granularity in tasks.GRANULARITIES],
    (TaskNew, TASK | {"bundle": "x"}),
    (TaskNew, TASK | {"bundle": " "}),
    (TaskNew, TASK | {"bundle": "🚀" * 64}),
    (TaskNew, TASK | {"bundle": "'; DROP TABLE tasks; --"}),
    (TaskNew, TASK | {"change_id": 0}),
    (TaskNew, TASK | {"change_id": 2**31 - 1}),
    (TaskNew, TASK | {"target_date": "0001-01-01"}),
    (TaskNew, TASK | {"target_date": "9999-12-31"}),
    (TaskNew, TASK | {"target_date": "2020-02-29"}),
    (TaskNew, TASK | {"team_id": 2**63 - 1}),
    (TaskNew, TASK | {"s3_keys": {"a": "x" * (65536 - 8)}}),
    (TaskNew, TASK | {"s3_keys": {"big": 2**64, "float": 1.5, "null": None}}),
    (TeamNew, {"name": "x" * 64}),
    (TransferNew, MOVE),
    (TransferNew, MOVE | {"note": ""}),
    (TransferNew, MOVE | {"note": None}),
    (TransferNew, MOVE | {"note": "two\nlines" + "x" * 991}),
]


@pytest.mark.parametrize(("model", "body"), GOOD, ids=ascii_id)
def test_what_the_contract_allows_is_taken(model: type[Body], body: dict[str, Any]):
    assert check(model, body).given().keys() == body.keys()


INTEGERS: list[Any] = [True, "3", 3.0, 3.5, None, [], {}, float("inf"), 10**400]

CONTROLS: list[Any] = [f"a{char}b" for char in "\0\t\n\r\x1f\x7f\x85\x9f\ud800"]

BAD_VALUES: list[tuple[type[Body], dict[str, Any], str, list[Any]]] = [
    (TaskNew, TASK, "change_id", [*INTEGERS, -1, 2**31, 2**63, 2**64]),
    (TaskNew, TASK, "task_status", [*INTEGERS, 101.0, "101", 103, 0, 2**64, -101]),
    (TaskNew, TASK, "team_id", [True, "3", 3.0, [], 0, -1, 2**63, 10**400]),
    (TaskNew, TASK, "bundle", [None, 1, [], {}, "", "x" * 65, "🚀" * 65, "ends with\n", *CONTROLS]),
    (TaskNew, TASK, "granularity", [None, 1, "yearly", "Daily", "daily ", "", ["daily"]]),
    (TaskNew, TASK, "target_date", [None, 20200401, 1585699200, "", "2020-4-1", "20200401", "2020-W14-3"]),
    (
        TaskNew,
        TASK,
        "target_date",
        ["2021-02-29", "0000-01-01", "2020-13-01", " 2020-04-01", "２０２０-04-01"],
    ),
    (TaskNew, TASK, "target_date", ["2020-04-01T00:00:00", "2020-04-01\n"]),
    (TaskNew, TASK, "id", [None, 1, "", "f" * 31, "f" * 33, "F" * 32, "g" * 32, "f" * 32 + "\n"]),
    (TaskNew, TASK, "s3_keys", [None, [], "{}", 1, {"a": "x" * (65536 - 7)}]),
    (TransferNew, MOVE, "from_team_id", [True, "3", 3.0, 0, 2**63]),
    (TransferNew, MOVE, "to_team_id", [True, "3", 3.0, 0, 2**63]),
    (TransferNew, MOVE, "note", [1, "x" * 1001, "\0", "\ud800"]),
    (TeamNew, {}, "name", [None, 1, "", "x" * 65, *CONTROLS]),
    (TeamChange, {}, "name", [None]),
    (TaskChange, {}, "s3_keys", [None, []]),
    *[(TaskChange, {}, field, [None]) for field in ["task_status", "bundle", "target_date", "change_id"]],
    # Unknown, or the server's.
    *[(TaskNew, TASK, field, [1]) for field in ["version", "create_time", "update_time", "more", "", "a/b"]],
    *[(TaskChange, {}, field, [1]) for field in ["id", "team_id", "version", "create_time", "update_time"]],
    (TeamChange, {}, "id", [1]),
]
BAD = [(model, good, field, value) for model, good, field, values in BAD_VALUES for value in values]


@pytest.mark.parametrize(("model", "good", "field", "value"), BAD, ids=ascii_id)
def test_what_it_does_not_allow_is_the_one_fault(
    model: type[Body], good: dict[str, Any], field: str, value: Any
):
    """The pointer leads to the field, and the message goes on where the field's name ends."""
    found = faults(model, good | {field: value})

    assert list(found) == ["/" + field.replace("/", "~1")]
    (message,) = found.values()
    assert message.startswith(("should", "is "))


def test_every_fault_is_named_at_once():
    body = {
        "granularity": "yearly",
        "target_date": 1,
        "change_id": True,
        "s3_keys": {"a/b": ["\0"], "x": 10**400},
    }
    body |= {"more": 1, "\ud800": 2}

    assert faults(TaskNew, body) == {
        "/bundle": "is required",
        "/granularity": "should be 'hourly', 'daily', 'weekly' or 'monthly'",
        "/target_date": "should be an ISO date, YYYY-MM-DD",
        "/change_id": "should be a valid integer",
        "/s3_keys/a~1b/0": "should not hold a NUL character",
        "/s3_keys/x": "should be a finite number",
        "/more": "is not a field of this body",
        "/?": "is not a field of this body",
    }


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [TASK], [[]]], ids=repr)
def test_a_body_is_an_object(value: Any):
    assert faults(TaskNew, value) == {"": "should be a JSON object"}


def test_a_transfer_says_both_teams():
    assert faults(TransferNew, {}) == {"/from_team_id": "is required", "/to_team_id": "is required"}


def test_a_body_of_a_million_unknown_fields_is_not_looked_at():
    assert faults(TaskNew, dict.fromkeys(map(str, range(1_000_000)))) == {
        "": "should have at most 100 fields"
    }


@pytest.mark.parametrize("number", [1001, 1500])
def test_a_thousand_faults_are_listed_and_that_there_are_more_is_said(number: int):
    """No more are looked for: a body of a few megabytes can have a million."""
    with pytest.raises(
        Problem, match="the body has more than 1000 faults, the first 1000 are listed"
    ) as refused:
        check(TaskNew, TASK | {"s3_keys": {"a": ["\0"] * number}})

    assert len(refused.value.errors or ()) == FAULTS_MAX == 1000


def test_faults_below_long_names_do_not_make_an_answer_larger_than_a_few_bodies():
    """Each of them would repeat the names above it: 97 MB were made of 66 KB, on the loop."""
    value: Any = ["\0"] * 900
    for _ in range(50):
        value = {"~/" * 500: value}

    with pytest.raises(Problem) as refused:
        check(TaskNew, TASK | {"s3_keys": value})

    assert refused.value.errors is not None
    assert len(json.dumps(refused.value.errors)) < 1_000_000
    assert {fault["pointer"] for fault in refused.value.errors} == {"/s3_keys"}


def test_a_fault_of_a_name_that_is_too_long_to_be_told_points_to_where_it_stands():
    assert faults(TaskNew, TASK | {"x" * 501: 1}) == {
        "": "in it, below names too long to be told: is not a field of this body"
    }
    assert faults(TaskNew, TASK | {"x" * 499: 1}) == {"/" + "x" * 499: "is not a field of this body"}


# -- a bulk, which is read an item at a time


def bulk_faults(body: Any) -> dict[str, str]:
    """What is wrong with a bulk as it is sent: message by pointer."""
    with pytest.raises(Problem) as refused:
        TasksNew.read(json.dumps(body).encode())
    assert refused.value.status_code == 422
    return {fault["pointer"]: fault["message"] for fault in refused.value.errors or ()}


def test_a_bulk_is_read_as_its_tasks_in_their_order():
    body = {"items": [TASK | {"change_id": number} for number in range(BULK_MAX)]}

    new = TasksNew.read(json.dumps(body).encode()).new()

    assert [task["change_id"] for task in new] == list(range(BULK_MAX))
    assert new[7] == check(TaskNew, TASK | {"change_id": 7}).new()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], {"": "should be a JSON object"}),
        ("items", {"": "should be a JSON object"}),
        ({}, {"/items": "is required"}),
        ({"more": 1}, {"/items": "is required", "/more": "is not a field of this body"}),
        ({"items": []}, {"/items": "should have at least 1 item"}),
        ({"items": {}}, {"/items": "should be a valid list"}),
        ({"items": None, "x": []}, {"/items": "should be a valid list", "/x": "is not a field of this body"}),
        ({"items": [TASK], "x": 1}, {"/x": "is not a field of this body"}),
        ({"items": [[], TASK, 7]}, dict.fromkeys(["/items/0", "/items/2"], "should be a JSON object")),
        ({"items": [TASK] * (BULK_MAX + 1)}, {"/items": "should have at most 10000 items"}),
        (
            {"items": [TASK | {"id": "f" * 32}, TASK, TASK | {"id": "f" * 32, "change_id": -1}]},
            {
                "/items/2/id": "stands in this bulk more than once",
                "/items/2/change_id": "should be greater than or equal to 0",
            },
        ),
        (dict.fromkeys(map(str, range(101))), {"": "should have at most 100 fields"}),
        (
            {"items": [TASK, TASK | dict.fromkeys(map(str, range(100)))]},
            {"/items/1": "should have at most 100 fields"},
        ),
    ],
    ids=ascii_id,
)
def test_every_fault_of_a_bulk_has_its_pointer(body: Any, expected: dict[str, str]):
    assert bulk_faults(body) == expected


def test_a_bulk_is_read_no_further_than_the_faults_that_are_told():
    """Behind them there may be what is no JSON."""
    items = json.dumps([TASK | {"change_id": -1}] * 1001)[:-1]

    with pytest.raises(Problem, match="the body has more than 1000 faults, the first 1000 are listed"):
        TasksNew.read(f'{{"items": {items}, and so on'.encode())


@pytest.mark.parametrize("body", [b'{"items": [{}', b'{"items": [], "items": []}', b'{"items": []} x', b"{"])
def test_a_bulk_that_is_no_json_is_400(body: bytes):
    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(handler(body), TasksNew))

    assert refused.value.status_code == 400


def wide(values: int) -> bytes:
    """A task with an array of so many values in its `s3_keys`, and six around it."""
    return json.dumps(TASK | {"s3_keys": {"a": [1] * values}}).encode()


def test_a_body_of_too_many_values_is_413_and_is_not_read(monkeypatch: pytest.MonkeyPatch):
    """Its object, five fields, the field's object, its array, and what is in that."""
    monkeypatch.setattr(TaskNew, "values_max", 57)
    assert asyncio.run(read_body(handler(wide(50)), TaskNew)).s3_keys == {"a": [1] * 50}
    monkeypatch.setattr(bodies, "parse", lambda body: pytest.fail("it was read"))

    with pytest.raises(Problem, match="a body here has at most 57 values") as refused:
        asyncio.run(read_body(handler(wide(52)), TaskNew))

    assert refused.value.status_code == 413


def test_whatever_s3_keys_may_hold_is_not_too_many_values():
    """64 KiB of it, as small as values are, and with commas and brackets in a string."""
    each: list[dict[str, Any]] = [
        {"a": [1] * 32_000},
        {"a": [[]] * 21_000},
        {"a": [{}] * 21_000},
        {"a": ",[{" * 21_000},
    ]
    for keys in each:
        task = TASK | {"s3_keys": keys}

        assert asyncio.run(read_body(handler(json.dumps(task).encode()), TaskNew)).s3_keys == keys


def test_a_full_bulk_has_room_for_fifty_values_a_task():
    task = TASK | {"s3_keys": {f"k{at}": at for at in range(42)} | {"text": ",[{" * 20}}
    body = json.dumps({"items": [task] * BULK_MAX}, separators=(",", ":")).encode()

    assert len(asyncio.run(read_body(handler(body), TasksNew)).new()) == BULK_MAX


def test_the_models_and_the_tables_say_the_same():
    """What a literal type spells out cannot be taken from the constants; here they are compared."""
    assert typing.get_args(typing.get_args(requests.TaskStatus)[0]) == tasks.STATUSES
    assert typing.get_args(requests.Granularity) == tasks.GRANULARITIES
    assert set(TaskNew.model_fields) == tasks.NewTask.__annotations__.keys()
    assert set(TaskChange.model_fields) == tasks.TaskChange.__annotations__.keys()


def handler(body: bytes, **headers: str) -> RequestHandler:
    """A handler of a request that was not sent."""
    named = HTTPHeaders({"Host": "here"} | {name.replace("_", "-"): value for name, value in headers.items()})

    class Connection:
        def set_close_callback(self, callback: object) -> None: ...

    line = RequestStartLine("POST", "/", "HTTP/1.1")
    connection: Any = Connection()
    request = HTTPServerRequest(start_line=line, headers=named, body=body, connection=connection)
    return RequestHandler(Application(), request)
