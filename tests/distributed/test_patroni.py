"""PostgreSQL under Patroni, synchronous: no switchover, crash or freeze loses what a client was told."""

from __future__ import annotations

import asyncio

import pytest

from tests.distributed.conftest import differences, goes_on, synchronous_standby
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.patroni import PatroniCluster

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=240),
    pytest.mark.usefixtures("told_in_the_log"),
]


def ways(*quick: tuple[str, bool]) -> pytest.MarkDecorator:
    """Each driver, by the members' hosts and behind HAProxy; those that are not quick take minutes in all."""
    every = [
        pytest.param(f"postgresql+{driver}", haproxy, id=f"{driver}-{'haproxy' if haproxy else 'hosts'}")
        for driver in ("psycopg2", "asyncpg", "psycopg")
        for haproxy in (False, True)
    ]
    chosen = [
        one
        if (str(one.values[0]).partition("+")[2], one.values[1]) in quick
        else pytest.param(*one.values, id=one.id, marks=pytest.mark.long)
        for one in every
    ]
    return pytest.mark.parametrize(("drivername", "haproxy"), chosen)


@ways(("psycopg2", False), ("asyncpg", True))
async def test_a_switchover_under_load_loses_no_acknowledged_write(
    load: Load, ledger: Ledger, cluster: PatroniCluster
):
    async with load:
        await asyncio.sleep(1.0)
        before = ledger.acknowledged
        await asyncio.to_thread(cluster.switch_over)
        took_s = await goes_on(ledger)
        await asyncio.sleep(0.5)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}")
    assert before > 20, "there was no load"
    assert ledger.answers["503 unknown"] == 0
    assert await asyncio.to_thread(differences, cluster, ledger) == []


@ways(("psycopg2", False))
async def test_a_leader_that_is_killed_loses_no_acknowledged_write(
    load: Load, ledger: Ledger, cluster: PatroniCluster
):
    leader = await asyncio.to_thread(cluster.wait_for_leader)

    async with load:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(leader.kill)
        await asyncio.to_thread(cluster.wait_for_leader, other_than=leader)
        took_s = await goes_on(ledger)
        await asyncio.sleep(0.5)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}")
    await asyncio.to_thread(leader.start)
    assert await asyncio.to_thread(differences, cluster, ledger) == []


@ways(("asyncpg", False))
async def test_a_leader_that_is_frozen_and_wakes_loses_no_acknowledged_write(
    load: Load, ledger: Ledger, cluster: PatroniCluster
):
    """It wakes as a leader of the past, with connections of the service's on it."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)

    async with load:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(leader.freeze)
        await asyncio.to_thread(cluster.wait_for_leader, other_than=leader)
        took_s = await goes_on(ledger)
        await asyncio.to_thread(leader.thaw)
        await asyncio.sleep(2.0)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}")
    await asyncio.to_thread(cluster.wait_until_whole)
    assert await asyncio.to_thread(differences, cluster, ledger) == []


@ways()
async def test_while_a_standby_is_frozen_another_confirms(
    load: Load, ledger: Ledger, cluster: PatroniCluster
):
    """The one that COMMIT waits for: writes wait until it is given up, and none is lost."""
    standby = await asyncio.to_thread(synchronous_standby, cluster)

    async with load:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(standby.freeze)
        await asyncio.sleep(1.0)  # what was on its way when it froze
        took_s = await goes_on(ledger, within_s=100)
        await asyncio.to_thread(standby.thaw)
        await asyncio.sleep(1.0)

    print(f"first write {took_s:.2f} s after the standby froze; {dict(ledger.answers)}")
    assert await asyncio.to_thread(differences, cluster, ledger) == []
