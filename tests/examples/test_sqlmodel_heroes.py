"""The application on SQLModel, through a driver of each kind."""

from __future__ import annotations

import pytest

from tests.examples.conftest import StartExample
from tests.fixtures.databases import RawSql
from tests.fixtures.server import Client

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]


async def add(client: Client, path: str, **fields: object) -> int:
    """Add a team or a hero; returns its id."""
    answer = await client.post(path, fields)
    assert answer.code == 201, answer
    return int(answer.json()["id"])


async def test_heroes_are_transferred_between_teams(start_example: StartExample, sql: RawSql):
    client = start_example("sqlmodel_heroes")
    avengers, x_men = [await add(client, "/teams", name=name) for name in ("Avengers", "X-Men")]
    hero = await add(client, "/heroes", name="Beast", secret_name="Henry McCoy", team_id=avengers)

    move = {"from_team_id": avengers, "to_team_id": x_men}
    moved = await client.post(f"/heroes/{hero}/transfer", move)
    again = await client.post(f"/heroes/{hero}/transfer", move)

    assert (moved.code, moved.json()) == (200, {"id": hero, "name": "Beast", "team_id": x_men})
    assert (again.code, again.json()["detail"]) == (409, "the hero is not in the source team")
    assert (await client.get(f"/teams/{avengers}/heroes")).json() == []
    assert [each["id"] for each in (await client.get(f"/teams/{x_men}/heroes")).json()] == [hero]
    assert sql("SELECT hero_id, from_team, to_team FROM transferlog") == [
        {"hero_id": hero, "from_team": avengers, "to_team": x_men}
    ]


async def test_a_transfer_to_a_team_that_is_not_there_leaves_nothing(
    start_example: StartExample, sql: RawSql
):
    client = start_example("sqlmodel_heroes")
    team = await add(client, "/teams", name="Avengers")
    hero = await add(client, "/heroes", name="Beast", secret_name="Henry McCoy", team_id=team)

    answer = await client.post(f"/heroes/{hero}/transfer", {"from_team_id": team, "to_team_id": team + 1})

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert sql("SELECT id FROM transferlog") == []
    assert sql("SELECT team_id FROM hero") == [{"team_id": team}]
