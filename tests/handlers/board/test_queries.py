"""Query arguments: every fault is told at once, in words that fit an argument."""

from __future__ import annotations

import pytest

from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test


async def test_every_fault_of_the_arguments_is_told_at_once(client: Client):
    response = await client.get("/tasks?nix=1&limit=0&status=101&status=102&bundle=%ff")

    assert response.code == 400
    assert response.json()["detail"].partition(": ")[2].split("; ") == [
        "nix: there is no such argument",
        "status: is given 2 times",
        "bundle: is not UTF-8",
        "limit: should be greater than or equal to 1",
    ]


async def test_names_that_are_strange_are_told_as_they_came(client: Client):
    response = await client.get("/tasks?%C3%A4=1&=2&team_id=99999999999999999999999")

    assert response.json()["detail"].partition(": ")[2].split("; ") == [
        "ä: there is no such argument",
        '"": there is no such argument',
        "team_id: should be less than or equal to 9223372036854775807",
    ]


async def test_hundreds_of_faults_are_not_all_told(client: Client):
    response = await client.get("/tasks?" + "&".join(f"n{at}=" for at in range(900)))

    assert response.code == 400
    assert response.json()["detail"].endswith("n19: there is no such argument; and 880 more")
