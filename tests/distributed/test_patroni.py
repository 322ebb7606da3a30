"""PostgreSQL under Patroni, synchronous: no switchover, crash or freeze loses what a client was told.

Each write is read back from a standby with its token, at once and in the end, when another server leads.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg2
import pytest

from tests.distributed.conftest import (
    at_work,
    broken_promises,
    fails_over,
    goes_on,
    switches_over,
    synchronous_standby,
    ways,
)
from tests.distributed.read_after import ReadAfterLoad
from tests.faults.ledger import Ledger
from tests.fixtures.patroni import PASSWORD, USER, PatroniCluster

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=240),
    pytest.mark.usefixtures("told_in_the_log"),
]


@pytest.fixture(scope="module", params=["synchronous", pytest.param("strict", marks=pytest.mark.long)])
def cluster_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A COMMIT is answered when a standby has it; strict, that is so without any standby as well."""
    return {"strict": request.param == "strict"}


@ways(("psycopg2", False), ("asyncpg", True))
async def test_a_switchover_under_load_loses_no_acknowledged_write(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    async with load:
        took_s = await switches_over(cluster, ledger)
        await asyncio.sleep(0.5)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}; {dict(load.reads)}")
    assert ledger.answers["503 unknown"] == 0
    assert await broken_promises(cluster, ledger, load) == []


@ways(("psycopg2", False))
async def test_a_leader_that_is_killed_loses_no_acknowledged_write(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    leader = await asyncio.to_thread(cluster.wait_for_leader)

    async with load:
        # The frozen one below is waited for until etcd forgets it.
        took_s = await fails_over(cluster, ledger, leader, leader.kill, cluster.forget_leader)
        await asyncio.sleep(0.5)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}; {dict(load.reads)}")
    await asyncio.to_thread(leader.start)
    assert await broken_promises(cluster, ledger, load) == []


@ways(("asyncpg", False))
async def test_a_leader_that_is_frozen_and_wakes_loses_no_acknowledged_write(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """It wakes as a leader of the past, with connections of the service's on it."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)

    async with load:
        took_s = await fails_over(cluster, ledger, leader, leader.freeze)
        await asyncio.to_thread(leader.thaw)
        await asyncio.sleep(2.0)

    print(f"first write {took_s:.2f} s after the new leader; {dict(ledger.answers)}; {dict(load.reads)}")
    await asyncio.to_thread(cluster.wait_until_whole)
    assert await broken_promises(cluster, ledger, load) == []


@ways()
async def test_while_a_standby_is_frozen_another_confirms(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """The one that COMMIT waits for: writes wait until it is given up, and none is lost."""
    standby = await asyncio.to_thread(synchronous_standby, cluster)

    async with load:
        await at_work(ledger)
        await asyncio.to_thread(standby.freeze)
        await asyncio.sleep(1.0)  # what was on its way when it froze
        took_s = await goes_on(ledger, within_s=100)
        await asyncio.to_thread(standby.thaw)
        await asyncio.sleep(1.0)

    print(f"first write {took_s:.2f} s after the standby froze; {dict(ledger.answers)}; {dict(load.reads)}")
    assert await broken_promises(cluster, ledger, load) == []


@pytest.mark.parametrize("creates_only", [True])
async def test_while_the_standbys_apply_nothing_a_read_with_the_token_sees_its_write(
    load: ReadAfterLoad, ledger: Ledger, cluster: PatroniCluster
):
    """They have received it, and confirm it. Patroni ends a pause of PostgreSQL's own in a moment."""
    leader = await asyncio.to_thread(cluster.wait_for_leader)
    standbys = [member for member in cluster.members if member is not leader]
    applying = [
        process
        for standby in standbys
        for process in standby.processes
        if "startup recovering" in " ".join(process.cmdline())
    ]

    async with load:
        for process in applying:
            process.suspend()
        await asyncio.sleep(2.0)
        for process in applying:
            process.resume()

    print(dict(ledger.answers), dict(load.reads))
    assert len(applying) == 2
    # A read of the moment before or after may be an exception.
    assert load.reads["stale without a token"] > 0.8 * load.reads["without a token"] > 15
    assert await broken_promises(cluster, ledger, load) == []


@pytest.mark.long
async def test_behind_haproxy_the_readers_of_a_killed_standby_are_led_to_another(cluster: PatroniCluster):
    """At once: HAProxy itself notices after a second that a server is gone."""
    standby = await asyncio.to_thread(synchronous_standby, cluster)
    await asyncio.to_thread(standby.kill)

    began = time.monotonic()
    for _ in range(8):
        psycopg2.connect(
            host="127.0.0.1", port=cluster.reader_port, user=USER, password=PASSWORD, dbname="postgres"
        ).close()
    took_s = time.monotonic() - began
    await asyncio.to_thread(standby.start)

    print(f"8 connections took {took_s:.2f} s")
    assert took_s < 1.0
