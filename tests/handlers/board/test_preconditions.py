"""Conditional requests: what has not changed is not sent again, and what has is not written over."""

from __future__ import annotations

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test

TASK = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}


@pytest.fixture
def path() -> str:
    return f"/tasks/{'0' * 31}a"


async def created(client: Client, path: str) -> str:
    response = await client.post("/tasks", TASK | {"id": path.rpartition("/")[2]})
    assert response.code == 201
    return str(response.headers["ETag"])


async def test_the_tag_of_a_task_is_the_same_wherever_it_is_told(client: Client, path: str):
    tag = await created(client, path)

    assert (await client.get(path)).headers["ETag"] == tag
    assert (await client.head(path)).headers["ETag"] == tag
    changed = await client.patch(path, {"change_id": 9})
    assert changed.headers["ETag"] == (await client.get(path)).headers["ETag"] != tag


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', "*"])
async def test_what_has_not_changed_is_not_sent(client: Client, path: str, form: str):
    tag = await created(client, path)

    response = await client.get(path, headers={"If-None-Match": form.format(tag)})

    assert (response.code, response.body) == (304, b"")
    assert response.headers["ETag"] == tag


async def test_what_has_changed_is_sent(client: Client, path: str):
    tag = await created(client, path)
    await client.patch(path, {"change_id": 9})

    assert (await client.get(path, headers={"If-None-Match": tag})).code == 200


@pytest.mark.parametrize("form", ["{}", '"x", {}', '"x",{}', ', "x", , W/"y", {} ,', "*", " * "])
async def test_a_change_is_made_where_the_tag_matches(client: Client, path: str, form: str):
    tag = await created(client, path)

    assert (await client.patch(path, {"change_id": 9}, headers={"If-Match": form.format(tag)})).code == 200


@pytest.mark.parametrize("form", ['"x"', "W/{}"])
async def test_a_change_is_refused_where_it_does_not(client: Client, path: str, sql: RawSql, form: str):
    """A weak tag does not match: the comparison is the strong one."""
    tag = await created(client, path)

    response = await client.patch(path, {"change_id": 9}, headers={"If-Match": form.format(tag)})

    assert (response.code, response.json()["outcome"]) == (412, "not_applied")
    assert sql("SELECT change_id, version FROM tasks") == [{"change_id": 3, "version": 1}]


async def test_a_deletion_honours_the_tag_too(client: Client, path: str):
    tag = await created(client, path)
    await client.patch(path, {"change_id": 9})

    assert (await client.delete(path, headers={"If-Match": tag})).code == 412
    assert (await client.get(path)).code == 200


async def test_the_tag_of_an_id_used_again_is_another(client: Client, path: str):
    tag = await created(client, path)
    await client.delete(path)

    assert await created(client, path) != tag
    assert (await client.patch(path, {"change_id": 9}, headers={"If-Match": tag})).code == 412


async def test_a_header_that_holds_no_tags_is_refused(
    client: Client, path: str, sql: RawSql, subtests: pytest.Subtests
):
    """An empty one too: it is a precondition, and is not ignored."""
    tag = await created(client, path)

    for form in ("3", "", ",", '"x', '{} "x"', "{}, *", "*, {}", "W/ {}"):
        with subtests.test(form):
            response = await client.patch(path, {"change_id": 9}, headers={"If-Match": form.format(tag)})

            assert response.code == 400
            assert sql("SELECT change_id FROM tasks") == [{"change_id": 3}]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_task_may_be_kept_and_asked_for_again(client: Client):
    """Under no-store a browser would never send If-None-Match; no cache in between keeps it either way."""
    made = await client.post("/tasks", TASK)
    path = made.headers["Location"]

    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    gone = await client.get(path[:-1] + ("1" if path[-1] == "0" else "0"))

    assert (first.code, again.code, gone.code) == (200, 304, 404)
    assert first.headers["Cache-Control"] == again.headers["Cache-Control"] == "private, no-cache"
    assert made.headers["Cache-Control"] == gone.headers["Cache-Control"] == "no-store"
