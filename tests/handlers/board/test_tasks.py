"""Tasks over HTTP: the contract, call by call, on both databases."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Answer, Client

ID = "f2ee55c638084ebfb35a00c003670ad9"
TASK: dict[str, Any] = {
    "bundle": "store",
    "granularity": "daily",
    "target_date": "2020-04-01",
    "change_id": 3,
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


async def create(client: Client, **fields: Any) -> dict[str, Any]:
    """A task that is there."""
    answer = await client.post("/tasks", TASK | fields)
    assert answer.code == 201, answer
    task: dict[str, Any] = answer.json()
    return task


async def create_team(client: Client, name: str) -> int:
    """A team that is there; its id."""
    answer = await client.post("/teams", {"name": name})
    assert answer.code == 201, answer
    team_id: int = answer.json()["id"]
    return team_id


def refused(answer: Answer, status: int, *pointers: str) -> dict[str, Any]:
    """The problem that an answer is: nothing was applied, and these fields were at fault."""
    problem: dict[str, Any] = answer.json()
    assert answer.code == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["outcome"] == "not_applied"
    assert [fault["pointer"] for fault in problem.get("errors", ())] == list(pointers)
    return problem


@pytest.mark.gen_test
async def test_a_task_is_created_with_what_was_left_out_made_by_the_server(client: Client):
    answer = await client.post("/tasks", TASK)

    task = answer.json()
    assert answer.code == 201
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == f"/tasks/{task['id']}"
    assert re.fullmatch("[0-9a-f]{32}", task["id"])
    assert TIME.fullmatch(task["create_time"])
    assert task == {
        "id": task["id"],
        "task_status": 101,
        "s3_keys": {},
        **TASK,
        "team_id": None,
        "version": 1,
        "create_time": task["create_time"],
        "update_time": task["create_time"],
    }
    assert (await client.get(answer.headers["Location"])).json() == task


@pytest.mark.gen_test
async def test_the_seed_documents_row_is_answered_as_the_contract_prints_it(client: Client, sql: RawSql):
    """To the character, whole seconds without a fraction."""
    await create(client, id=ID)
    sql(
        "UPDATE tasks SET create_time = :created, update_time = :updated",
        created="2020-03-01 00:00:00.000000+00:00",
        updated="2020-06-03 10:45:00.287701+00:00",
    )

    answer = await client.get(f"/tasks/{ID}")

    assert answer.json() == {
        "id": "f2ee55c638084ebfb35a00c003670ad9",
        "task_status": 101,
        "s3_keys": {},
        "bundle": "store",
        "granularity": "daily",
        "target_date": "2020-04-01",
        "change_id": 3,
        "team_id": None,
        "version": 1,
        "create_time": "2020-03-01T00:00:00Z",
        "update_time": "2020-06-03T10:45:00.287701Z",
    }


@pytest.mark.gen_test
async def test_what_a_client_sends_comes_back_as_it_was(client: Client):
    """SQL, quotes, control characters in JSON and all of Unicode included."""
    team_id = await create_team(client, "a")
    sent = {
        "id": ID,
        "task_status": 400,
        "bundle": "'; DROP TABLE tasks; --%s:x{}\\",
        "s3_keys": {"🚀": ["\t\n\x01\u2028", {"": None}], "n": [0, -1, 1.5, 2**64, 1e22], "b": [True, False]},
        "granularity": "monthly",
        "target_date": "0001-01-01",
        "change_id": 2**31 - 1,
        "team_id": team_id,
    }

    task = await create(client, **sent)

    assert {name: task[name] for name in sent} == sent
    assert (await client.get(f"/tasks/{ID}")).json() == task


@pytest.mark.gen_test
async def test_a_task_may_start_in_any_status(client: Client, subtests: pytest.Subtests):
    """Imports do."""
    for status in (101, 102, 200, 400, 99):
        with subtests.test(str(status)):
            assert (await create(client, task_status=status))["task_status"] == status


@pytest.mark.gen_test
async def test_an_id_that_exists_is_409_and_the_first_task_stays(client: Client):
    task = await create(client, id=ID)

    answer = await client.post("/tasks", TASK | {"id": ID, "bundle": "other"})

    assert refused(answer, 409)["detail"] == "a task with this id exists already"
    assert (await client.get(f"/tasks/{ID}")).json() == task


@pytest.mark.gen_test
async def test_a_team_that_does_not_exist_is_422_with_its_pointer(client: Client, sql: RawSql):
    refused(await client.post("/tasks", TASK | {"team_id": 12345}), 422, "/team_id")
    refused(await client.post("/tasks", TASK | {"team_id": 2**63 - 1}), 422, "/team_id")

    assert sql("SELECT id FROM tasks") == []


@pytest.mark.gen_test
async def test_every_fault_of_a_body_is_named_and_nothing_is_kept(client: Client, sql: RawSql):
    body = {"granularity": "yearly", "change_id": "3", "s3_keys": {"a/b": "\0"}, "more": 1}

    refused(
        await client.post("/tasks", body),
        422,
        "/bundle",
        "/granularity",
        "/target_date",
        "/change_id",
        "/s3_keys/a~1b",
        "/more",
    )
    assert sql("SELECT id FROM tasks") == []


HOSTILE = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "bad UTF-8": (b'{"bundle":"\xff"}', 400),
    "NaN": (b'{"change_id":NaN}', 400),
    "infinite": (b'{"change_id":1e400}', 422),
    "5,000 digits": (b'{"change_id":' + b"9" * 5000 + b"}", 400),
    "past 64 bits": (b'{"change_id":' + b"9" * 30 + b"}", 422),
    "100,000 levels": (b"[" * 100_000 + b"]" * 100_000, 400),
    "an array": (b"[]", 422),
    "a name twice": (b'{"bundle":"a","bundle":"b"}', 400),
    "NUL": (b'{"bundle":"a\\u0000b"}', 422),
    "half a surrogate pair": (b'{"bundle":"\\ud800"}', 422),
}


@pytest.mark.gen_test
async def test_a_hostile_body_is_the_clients_fault(client: Client, sql: RawSql, subtests: pytest.Subtests):
    """A 4xx that can be read, on POST and on PATCH, and the connection goes on."""
    task = await create(client)
    as_json = {"headers": {"Content-Type": "application/json"}}
    for name, (body, status) in HOSTILE.items():
        with subtests.test(name):
            for answer in (
                await client.post("/tasks", body, **as_json),
                await client.patch(f"/tasks/{task['id']}", body, **as_json),
            ):
                assert answer.code == status
                assert answer.json()["detail"]

    assert (await client.get(f"/tasks/{task['id']}")).json() == task
    assert sql("SELECT count(*) AS n FROM tasks") == [{"n": 1}]


@pytest.mark.gen_test
async def test_another_content_type_is_415(client: Client):
    refused(await client.post("/tasks", b"bundle=a", headers={"Content-Type": "text/plain"}), 415)


MALFORMED = [
    "f" * 31,
    "f" * 33,
    "F" * 32,
    "g" * 32,
    "0",
    "-",
    "%00",
    "f" * 32 + "%0a",
    ID + "/",
    ID + "/nothing",
]


@pytest.mark.gen_test
async def test_what_does_not_exist_is_404_a_malformed_id_included(client: Client, subtests: pytest.Subtests):
    for task_id in ("0" * 32, *MALFORMED):
        path = f"/tasks/{task_id}"
        with subtests.test(path):
            refused(await client.get(path), 404)
            refused(await client.patch(path, {"bundle": "x"}), 404)
            refused(await client.delete(path), 404)
            refused(await client.get(f"{path}/transfers"), 404)
            refused(await client.post(f"{path}/transfer", {"from_team_id": None, "to_team_id": 1}), 404)


@pytest.mark.gen_test
async def test_a_path_that_is_none_is_404_and_a_method_that_is_none_405(client: Client):
    refused(await client.get("/task"), 404)
    answer = await client.request("PUT", f"/tasks/{ID}", TASK)

    refused(answer, 405)
    assert {"DELETE", "GET", "HEAD", "PATCH"} == {*answer.headers["Allow"].split(", ")} - {"OPTIONS"}


@pytest.mark.gen_test
async def test_head_is_answered_as_get_without_the_body(client: Client):
    task = await create(client)

    head, get = await client.head(f"/tasks/{task['id']}"), await client.get(f"/tasks/{task['id']}")

    assert (head.code, head.body) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.gen_test
async def test_a_change_answers_with_the_task_as_it_is_now(client: Client):
    task = await create(client)

    answer = await client.patch(f"/tasks/{task['id']}", {"task_status": 102, "s3_keys": {"a": "b"}})

    changed = answer.json()
    assert answer.code == 200
    assert changed == task | {
        "task_status": 102,
        "s3_keys": {"a": "b"},
        "version": 2,
        "update_time": changed["update_time"],
    }
    assert changed["update_time"] > task["update_time"]
    assert (await client.get(f"/tasks/{task['id']}")).json() == changed


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "change", [{}, {"task_status": 101}, {"bundle": "store", "s3_keys": {}, "change_id": 3}]
)
async def test_a_change_that_changes_nothing_moves_nothing(client: Client, change: dict[str, Any]):
    task = await create(client)

    answer = await client.patch(f"/tasks/{task['id']}", change)

    assert answer.code == 200
    assert answer.json() == task


@pytest.mark.gen_test
async def test_a_status_that_may_not_follow_is_409_and_the_rest_of_the_change_is_not_kept(client: Client):
    task = await create(client)

    answer = await client.patch(f"/tasks/{task['id']}", {"bundle": "other", "task_status": 200})

    assert refused(answer, 409)["detail"] == "a task cannot go from status 101 to 200"
    assert (await client.get(f"/tasks/{task['id']}")).json() == task


@pytest.mark.gen_test
async def test_what_is_the_servers_cannot_be_changed(client: Client, subtests: pytest.Subtests):
    task = await create(client)

    for field in ("id", "team_id", "version", "create_time", "update_time"):
        with subtests.test(field):
            refused(await client.patch(f"/tasks/{task['id']}", {field: task[field]}), 422, f"/{field}")


@pytest.mark.gen_test
async def test_a_deleted_task_is_gone_and_its_id_is_free(client: Client):
    await create(client, id=ID)

    answer = await client.delete(f"/tasks/{ID}")

    assert (answer.code, answer.body) == (204, b"")
    refused(await client.get(f"/tasks/{ID}"), 404)
    refused(await client.delete(f"/tasks/{ID}"), 404)
    assert (await create(client, id=ID))["version"] == 1


# -- the list


@pytest.mark.gen_test
async def test_the_list_of_nothing_is_empty(client: Client):
    answer = await client.get("/tasks")

    assert answer.code == 200
    assert answer.json() == {"items": [], "next_cursor": None}


@pytest.mark.gen_test
async def test_the_list_is_walked_newest_first_whatever_is_inserted_meanwhile(client: Client):
    """Each task that was there when the walk began, once; the same items as the calls for one task give."""
    created = [await create(client, change_id=number) for number in range(7)]
    seen: list[Any] = []
    query: str | None = "limit=3"

    while query:
        page = (await client.get(f"/tasks?{query}")).json()
        assert len(page["items"]) <= 3
        seen += page["items"]
        query = page["next_cursor"] and f"limit=3&cursor={page['next_cursor']}"
        await create(client, bundle="newcomer")

    assert seen == created[::-1]


@pytest.mark.gen_test
async def test_a_last_page_that_is_full_says_that_it_is_the_last(client: Client):
    for _ in range(4):
        await create(client)

    page = (await client.get("/tasks?limit=4")).json()

    assert len(page["items"]) == 4
    assert page["next_cursor"] is None


@pytest.mark.gen_test
async def test_filters_hold_together(client: Client):
    team_id = await create_team(client, "a")
    fields: dict[str, Any] = {
        "task_status": 102,
        "bundle": "a&b=ü",
        "granularity": "weekly",
        "team_id": team_id,
    }
    wanted = await create(client, **fields)
    others: list[dict[str, Any]] = [
        {"task_status": 101},
        {"bundle": "x"},
        {"granularity": "daily"},
        {"team_id": None},
    ]
    for other in others:
        await create(client, **fields | other)
    query = f"status=102&bundle=a%26b%3D%C3%BC&granularity=weekly&team_id={team_id}"

    for dates, found in [
        ("", [wanted]),
        ("&target_from=2020-04-01&target_to=2020-04-01", [wanted]),
        ("&target_from=2020-04-02", []),
        ("&target_to=2020-03-31", []),
    ]:
        assert (await client.get(f"/tasks?{query}{dates}")).json()["items"] == found


WRONG_QUERIES = [
    *[f"limit={limit}" for limit in ["0", "-1", "1001", "", "x", "1.0", "%2B1", "9" * 5000]],
    *[f"status={status}" for status in ["103", "", "x", "101.0"]],
    *[f"team_id={team_id}" for team_id in ["0", "-1", "x", "", "null", str(2**63)]],
    *[f"target_from={day}" for day in ["2020-02-30", "20200401", ""]],
    *[f"bundle={bundle}" for bundle in ["", "x" * 65, "%00", "a%0Ab", "%ff"]],
    "granularity=yearly",
    *[f"cursor={cursor}" for cursor in ["", "x", "A" * 43, "A" * 44, "%00"]],
    "limit=1&limit=2",
    "more=1",
]


@pytest.mark.gen_test
async def test_a_wrong_query_argument_is_400_and_named(client: Client, subtests: pytest.Subtests):
    for query in WRONG_QUERIES:
        with subtests.test(query):
            problem = refused(await client.get(f"/tasks?{query}"), 400)

            assert query.partition("=")[0] in problem["detail"]


@pytest.mark.gen_test
async def test_a_cursor_with_other_filters_than_its_own_is_400(client: Client):
    """The limit is no filter."""
    for _ in range(3):
        await create(client)
    cursor = (await client.get("/tasks?limit=1&status=101")).json()["next_cursor"]

    refused(await client.get(f"/tasks?limit=1&cursor={cursor}"), 400)
    refused(await client.get(f"/tasks?status=102&cursor={cursor}"), 400)
    assert len((await client.get(f"/tasks?limit=9&status=101&cursor={cursor}")).json()["items"]) == 2


@pytest.mark.gen_test
async def test_a_page_holds_fifty_where_nothing_is_said_and_a_thousand_at_most(client: Client, sql: RawSql):
    for first in range(0, 1020, 60):
        rows = ", ".join(
            f"('{number:032x}', 'store', 'daily', '2020-04-01', 1)" for number in range(first, first + 60)
        )
        sql(f"INSERT INTO tasks (id, bundle, granularity, target_date, change_id) VALUES {rows}")

    assert len((await client.get("/tasks")).json()["items"]) == 50
    assert len((await client.get("/tasks?limit=1000")).json()["items"]) == 1000


# -- transfers


@pytest.mark.gen_test
async def test_a_transfer_moves_the_task_and_logs_it(client: Client):
    a, b = await create_team(client, "a"), await create_team(client, "b")
    task = await create(client, team_id=a)

    answer = await client.post(
        f"/tasks/{task['id']}/transfer", {"from_team_id": a, "to_team_id": b, "note": "too\nmuch"}
    )

    assert answer.code == 200
    moved, transfer = answer.json()["task"], answer.json()["transfer"]
    assert moved == task | {"team_id": b, "version": 2, "update_time": moved["update_time"]}
    assert transfer == {
        "id": transfer["id"],
        "task_id": task["id"],
        "from_team_id": a,
        "to_team_id": b,
        "note": "too\nmuch",
        "create_time": moved["update_time"],
    }
    assert (await client.get(f"/tasks/{task['id']}")).json() == moved
    assert (await client.get(f"/tasks/{task['id']}/transfers")).json() == {"items": [transfer]}


@pytest.mark.gen_test
async def test_a_task_is_taken_out_of_its_team_and_given_to_another(client: Client):
    """The log is oldest first, and has null for no team and for no note."""
    a = await create_team(client, "a")
    task = await create(client, team_id=a)
    for source, target in [(a, None), (None, a)]:
        move = {"from_team_id": source, "to_team_id": target}
        assert (await client.post(f"/tasks/{task['id']}/transfer", move)).code == 200

    log = (await client.get(f"/tasks/{task['id']}/transfers")).json()["items"]

    assert [(each["from_team_id"], each["to_team_id"], each["note"]) for each in log] == [
        (a, None, None),
        (None, a, None),
    ]


@pytest.mark.gen_test
async def test_a_transfer_that_cannot_be_is_refused_and_leaves_no_trace(client: Client, sql: RawSql):
    a, b = await create_team(client, "a"), await create_team(client, "b")
    task = await create(client, team_id=a)
    path = f"/tasks/{task['id']}/transfer"

    refused(await client.post(path, {"from_team_id": b, "to_team_id": a}), 409)
    refused(await client.post(path, {"from_team_id": None, "to_team_id": b}), 409)
    refused(await client.post(path, {"from_team_id": a, "to_team_id": a}), 422, "/to_team_id")
    refused(await client.post(path, {"from_team_id": None, "to_team_id": None}), 422, "/to_team_id")
    refused(await client.post(path, {"from_team_id": a, "to_team_id": 12345}), 422, "/to_team_id")
    refused(await client.post(path, {"from_team_id": 12345, "to_team_id": b}), 422, "/from_team_id")
    refused(await client.post(path, {"to_team_id": "b"}), 422, "/from_team_id", "/to_team_id")

    assert (await client.get(f"/tasks/{task['id']}")).json() == task
    assert sql("SELECT id FROM transfers") == []


@pytest.mark.gen_test
async def test_of_many_transfers_of_one_task_at_once_one_succeeds(client: Client, sql: RawSql):
    a = await create_team(client, "a")
    targets = [await create_team(client, name) for name in "bcdefghi"]
    task = await create(client, team_id=a)

    answers = await asyncio.gather(
        *[
            client.post(f"/tasks/{task['id']}/transfer", {"from_team_id": a, "to_team_id": target})
            for target in targets
        ]
    )

    assert sorted(answer.code for answer in answers) == [200] + [409] * 7
    assert len(sql("SELECT id FROM transfers")) == 1


@pytest.mark.gen_test
async def test_of_many_changes_at_once_none_is_lost(client: Client):
    """As many versions as changes, transfers among them."""
    a = await create_team(client, "a")
    task = await create(client)
    path = f"/tasks/{task['id']}"

    answers = await asyncio.gather(
        *[client.patch(path, {"change_id": 100 + number}) for number in range(10)],
        client.post(f"{path}/transfer", {"from_team_id": None, "to_team_id": a}),
    )

    assert [answer.code for answer in answers] == [200] * 11
    now = (await client.get(path)).json()
    assert (now["version"], now["team_id"]) == (12, a)
