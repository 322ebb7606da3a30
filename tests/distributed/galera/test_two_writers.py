"""Services that write at two nodes at once: certification refuses one of two, and its client sees nothing."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.distributed.galera.conftest import NAME, ServiceAt
from tests.faults.conftest import told_in_the_log as told_in_the_log
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql
from tests.fixtures.galera import GaleraCluster
from tests.fixtures.server import Answer, Client

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=120),
    pytest.mark.usefixtures("told_in_the_log"),
]


@pytest.fixture
def services(cluster: GaleraCluster, service_at: ServiceAt) -> list[Client]:
    """One at each of the first two nodes."""
    return [service_at(node.url_for(NAME)) for node in cluster.nodes[:2]]


async def test_claims_at_two_nodes_are_all_answered_and_no_row_is_claimed_twice(
    services: list[Client], sql: RawSql
):
    """All of them want the oldest rows: each transaction is in conflict with each at the other node."""
    for number in range(120):
        await services[0].post("/books", {"title": f"book {number}"})

    async def claim(service: Client) -> list[Answer]:
        return [await service.post("/books/lend", {"limit": 1}) for _ in range(14)]

    claims = await asyncio.gather(*(claim(service) for service in services for _ in range(4)))
    answers = [answer for each in claims for answer in each]

    codes = Counter(answer.code for answer in answers)
    assert codes == {200: 112}
    claimed = [book["id"] for answer in answers for book in answer.json()["items"]]
    assert len(claimed) == len(set(claimed)) == 112
    assert sql("SELECT COUNT(*) AS lent FROM books WHERE is_lent") == [{"lent": 112}]


async def test_what_two_nodes_acknowledged_under_load_is_there(services: list[Client], sql: RawSql):
    ledger = Ledger()

    async with Load(services[0], ledger, seed=1), Load(services[1], ledger, seed=2):
        await asyncio.sleep(3.0)

    print(dict(ledger.answers))
    assert ledger.acknowledged > 50, "there was no load"
    assert ledger.compare(sql) == []
