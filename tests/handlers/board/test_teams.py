"""Teams over HTTP: the contract, call by call, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client
from tests.handlers.board.test_tasks import TIME, create, create_team, refused


@pytest.mark.gen_test
async def test_a_team_is_created_and_found_again(client: Client):
    answer = await client.post("/teams", {"name": "Qualität 🚀"})

    team = answer.json()
    assert answer.code == 201
    assert answer.headers["Location"] == f"/teams/{team['id']}"
    assert team == {"id": team["id"], "name": "Qualität 🚀", "create_time": team["create_time"]}
    assert isinstance(team["id"], int)
    assert TIME.fullmatch(team["create_time"])
    assert (await client.get(f"/teams/{team['id']}")).json() == team
    assert (await client.get("/teams")).json() == {"items": [team]}


@pytest.mark.gen_test
async def test_a_name_that_is_taken_is_409(client: Client, sql: RawSql):
    """On creating and on renaming; the detail says why, and names no constraint."""
    await create_team(client, "a")
    other = await create_team(client, "b")

    for answer in (
        await client.post("/teams", {"name": "a"}),
        await client.patch(f"/teams/{other}", {"name": "a"}),
    ):
        assert refused(answer, 409)["detail"] == "a team with this name exists already"

    assert sql("SELECT name FROM teams ORDER BY name") == [{"name": "a"}, {"name": "b"}]


@pytest.mark.gen_test
async def test_of_one_name_wanted_by_many_at_once_one_gets_it(client: Client):
    answers = await asyncio.gather(*[client.post("/teams", {"name": "a"}) for _ in range(8)])

    assert sorted(answer.code for answer in answers) == [201] + [409] * 7


@pytest.mark.gen_test
async def test_a_body_that_is_wrong_is_422(client: Client):
    refused(await client.post("/teams", {}), 422, "/name")
    refused(await client.post("/teams", {"name": "", "id": 1}), 422, "/name", "/id")
    refused(await client.post("/teams", {"name": "x" * 65}), 422, "/name")
    refused(await client.post("/teams", []), 422, "")


@pytest.mark.gen_test
async def test_a_team_is_renamed_and_a_change_of_nothing_is_fine(client: Client):
    team_id = await create_team(client, "a")

    assert (await client.patch(f"/teams/{team_id}", {"name": "b"})).json()["name"] == "b"
    assert (await client.patch(f"/teams/{team_id}", {"name": "b"})).code == 200
    assert (await client.patch(f"/teams/{team_id}", {})).json()["name"] == "b"
    refused(await client.patch(f"/teams/{team_id}", {"name": None}), 422, "/name")


@pytest.mark.gen_test
async def test_a_team_that_has_tasks_is_not_deleted(client: Client):
    """Once they have been transferred, it is."""
    team_id = await create_team(client, "a")
    task = await create(client, team_id=team_id)

    assert "still has tasks" in refused(await client.delete(f"/teams/{team_id}"), 409)["detail"]
    move = {"from_team_id": team_id, "to_team_id": None}
    assert (await client.post(f"/tasks/{task['id']}/transfer", move)).code == 200
    answer = await client.delete(f"/teams/{team_id}")

    assert (answer.code, answer.body) == (204, b"")
    refused(await client.get(f"/teams/{team_id}"), 404)
    assert len((await client.get(f"/tasks/{task['id']}/transfers")).json()["items"]) == 1


@pytest.mark.gen_test
async def test_what_does_not_exist_is_404_a_malformed_id_included(client: Client, subtests: pytest.Subtests):
    for team_id in ("12345", "999999999999999999", str(2**63), "9" * 40, "0", "01", "-1", "x", "1.0"):
        with subtests.test(team_id):
            refused(await client.get(f"/teams/{team_id}"), 404)
            refused(await client.patch(f"/teams/{team_id}", {"name": "a"}), 404)
            refused(await client.delete(f"/teams/{team_id}"), 404)


@pytest.mark.gen_test
async def test_a_method_that_is_none_is_405_with_those_that_are(client: Client):
    answer = await client.delete("/teams")

    refused(answer, 405)
    assert {"GET", "HEAD", "POST"} == {*answer.headers["Allow"].split(", ")} - {"OPTIONS"}
