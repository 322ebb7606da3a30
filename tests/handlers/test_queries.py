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
