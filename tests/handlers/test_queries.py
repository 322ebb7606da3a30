"""Query arguments: every fault is told at once, in words that fit an argument."""

from __future__ import annotations

import pytest

from tests.fixtures.server import Client

pytestmark = pytest.mark.gen_test


async def test_every_fault_of_the_arguments_is_told_at_once(client: Client):
    response = await client.get("/shelves?nix=1&limit=0&limit=1&name=%ff")

    assert response.code == 400
    assert response.json()["detail"].partition(": ")[2].split("; ") == [
        "nix: there is no such argument",
        "limit: is given 2 times",
        "name: is not UTF-8",
        "limit: should be greater than or equal to 1",
    ]


async def test_names_that_are_strange_are_told_as_they_came(client: Client):
    response = await client.get("/shelves?%C3%A4=1&=2&limit=99999999999999999999999")

    assert response.json()["detail"].partition(": ")[2].split("; ") == [
        "ä: there is no such argument",
        '"": there is no such argument',
        "limit: should be less than or equal to 1000",
    ]


async def test_hundreds_of_faults_are_not_all_told(client: Client):
    response = await client.get("/shelves?" + "&".join(f"n{at}=" for at in range(900)))

    assert response.code == 400
    assert response.json()["detail"].endswith("n19: there is no such argument; and 880 more")
