"""PostgreSQL under Patroni, asynchronous: what no standby had is lost with the leader, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.distributed.conftest import differences, goes_on
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.patroni import PatroniCluster

pytestmark = [
    pytest.mark.debian,
    pytest.mark.long,
    pytest.mark.gen_test(timeout=240),
    pytest.mark.usefixtures("told_in_the_log"),
]


@pytest.fixture(scope="module")
def cluster_options() -> dict[str, Any]:
    """A COMMIT is answered when the leader has it."""
    return {"members": 2, "synchronous": False}


@pytest.mark.parametrize("behind_s", [0.0, 0.5])
async def test_a_leader_that_is_killed_takes_along_what_no_standby_had(
    load: Load, ledger: Ledger, cluster: PatroniCluster, behind_s: float
):
    """With a standby in step that is little enough to be nothing, mostly."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)
    [standby] = [member for member in cluster.members if member is not leader]

    async with load:
        await asyncio.sleep(1.0)
        before = ledger.acknowledged
        if behind_s:
            await asyncio.to_thread(standby.kill)  # frozen, its kernel would receive for it
            await asyncio.sleep(behind_s)
        meanwhile = ledger.acknowledged - before
        await asyncio.to_thread(leader.kill)
        if behind_s:
            await asyncio.to_thread(standby.start)
        await asyncio.to_thread(cluster.wait_for_leader, other_than=leader)
        took_s = await goes_on(ledger)

    await asyncio.to_thread(leader.start)
    faults = await asyncio.to_thread(differences, cluster, ledger)
    lost = [fault for fault in faults if "its client was told" in fault]
    print(f"{len(lost)} lost of {meanwhile}; first write {took_s:.2f} s after; {dict(ledger.answers)}")
    assert bool(lost) or not behind_s
    # A client of a row that was lost goes on with it.
    assert [fault for fault in faults if fault not in lost and "Answer 404" not in fault] == []
