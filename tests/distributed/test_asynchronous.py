"""PostgreSQL under Patroni, asynchronous: what no standby had is lost with the leader, which is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.distributed.conftest import (
    at_work,
    broken_promises,
    differences,
    fails_over,
    rows_of,
    switches_over,
    ways,
)
from tests.distributed.read_after import ReadAfterLoad
from tests.faults.ledger import Ledger
from tests.fixtures.patroni import PatroniCluster

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=240),
    pytest.mark.usefixtures("told_in_the_log"),
]


@pytest.fixture(scope="module")
def cluster_options() -> dict[str, Any]:
    """A COMMIT is answered when the leader has it."""
    return {"members": 2, "synchronous": False}


@pytest.fixture
def creates_only() -> bool:
    """So that what became of each write can be seen."""
    return True


async def lost_and_told(cluster: PatroniCluster, ledger: Ledger, load: ReadAfterLoad) -> int:
    """How many writes are lost; each of them is told, no other is, and nothing else is wrong."""
    await load.read_all_back()
    rows = await asyncio.to_thread(rows_of, cluster)
    lost = {write for write in load.writes if write.row_id not in rows}
    faults = await asyncio.to_thread(differences, cluster, ledger)
    assert load.told_lost == lost
    assert [*load.stale, *(fault for fault in faults if "its client was told" not in fault)] == []
    assert len(faults) == len(lost)
    return len(lost)


@ways(haproxy=False)
async def test_a_switchover_loses_no_acknowledged_write(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """The leader stops in order, and its standby has all of it first."""
    async with load:
        took_s = await switches_over(cluster, ledger)
        await asyncio.sleep(0.5)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}; {dict(load.reads)}")
    assert await broken_promises(cluster, ledger, load) == []


@ways(haproxy=False)
async def test_a_leader_that_is_killed_beside_a_standby_in_step_takes_little_along(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """So little that it is nothing, mostly; what it is, is told."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)

    async with load:
        took_s = await fails_over(cluster, ledger, leader, leader.kill)

    lost = await lost_and_told(cluster, ledger, load)
    print(f"{lost} lost; first write {took_s:.2f} s after; {dict(ledger.answers)}; {dict(load.reads)}")
    await asyncio.to_thread(leader.start)


@ways(("psycopg2", False), haproxy=False)
async def test_what_a_killed_leader_takes_along_that_its_standby_had_not_is_told(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """A write that is lost is told to be, each one, and none that is not."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)
    [standby] = [member for member in cluster.members if member is not leader]

    async with load:
        before = await at_work(ledger)
        await asyncio.to_thread(standby.kill)  # frozen, its kernel would receive for it
        await asyncio.sleep(0.5)
        meanwhile = ledger.acknowledged - before
        steps = (leader.kill, cluster.forget_leader, standby.start)
        took_s = await fails_over(cluster, ledger, leader, *steps)

    lost = await lost_and_told(cluster, ledger, load)
    print(f"{lost} of {meanwhile} lost; {took_s:.2f} s; {dict(ledger.answers)}; {dict(load.reads)}")
    await asyncio.to_thread(leader.start)
    # Three writers; and what the standby had not received when it was killed.
    assert 0 < lost <= meanwhile + 20
    assert lost < len(load.writes)


@ways(haproxy=False)
async def test_what_a_frozen_leader_acknowledges_when_it_wakes_is_told_where_it_is_lost(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """It takes writes beside its successor until its Patroni has noticed."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)

    async with load:
        took_s = await fails_over(cluster, ledger, leader, leader.freeze)
        await asyncio.to_thread(leader.thaw)
        await asyncio.sleep(3.0)

    await asyncio.to_thread(cluster.wait_until_whole)
    lost = await lost_and_told(cluster, ledger, load)
    print(f"{lost} lost; first write {took_s:.2f} s after; {dict(ledger.answers)}; {dict(load.reads)}")
