"""PostgreSQL under Patroni, strictly synchronous: a primary without a standby answers no COMMIT."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.distributed.conftest import POOL_SIZE, differences, goes_on, synchronous_standby
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.patroni import PatroniCluster
from tests.fixtures.server import Client

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=240),
    pytest.mark.usefixtures("told_in_the_log"),
]

REQUEST_TIMEOUT_S = 2.0
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'"
)


@pytest.fixture(scope="module")
def cluster_options() -> dict[str, Any]:
    """A leader and its only standby."""
    return {"members": 2, "strict": True}


@pytest.fixture
def further() -> dict[str, Any]:
    """So little patience that COMMITs are cut by the dozen."""
    return {"http.request_timeout_s": REQUEST_TIMEOUT_S}


@pytest.fixture
def load(service: Client, ledger: Ledger) -> Load:
    """More clients than the pool has connections."""
    return Load(service, ledger, writers=2 * POOL_SIZE, keyed=True)


@pytest.mark.parametrize(
    "drivername",
    [
        "postgresql+psycopg2",
        pytest.param("postgresql+asyncpg", marks=pytest.mark.long),
        pytest.param("postgresql+psycopg", marks=pytest.mark.long),
    ],
)
async def test_without_a_standby_no_more_sessions_wait_than_the_pool_has(
    load: Load, service: Client, ledger: Ledger, cluster: PatroniCluster
):
    """It was one more for each request that was cut."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)
    standby = await asyncio.to_thread(synchronous_standby, cluster)

    async with load:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(standby.kill)
        await asyncio.sleep(4 * REQUEST_TIMEOUT_S)
        [(waiting,)] = await asyncio.to_thread(leader.query, WAITING)
        writes, reads = [await service.get(f"/readyz?work={work}") for work in ("writes", "reads")]
        await asyncio.to_thread(standby.start)
        took_s = await goes_on(ledger, within_s=60)
        await asyncio.sleep(3.0)
        writes_again = await service.get("/readyz?work=writes")

    print(f"{waiting} waited; first write {took_s:.2f} s after the start; {dict(ledger.answers)}")
    assert waiting == POOL_SIZE
    assert (writes.code, reads.code, writes_again.code) == (503, 200, 200)
    assert await asyncio.to_thread(differences, cluster, ledger) == []
