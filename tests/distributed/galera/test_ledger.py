"""A service on a cluster whose nodes are killed, hang, and lose their quorum: what it told stays true."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.distributed.galera.conftest import NAME, ServiceAt, url_of
from tests.faults.conftest import told_in_the_log as told_in_the_log
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.fixtures.databases import RawSql
from tests.fixtures.galera import GaleraCluster
from tests.fixtures.server import Client
from tests.fixtures.waiting import wait_until

pytestmark = [
    pytest.mark.debian,
    pytest.mark.gen_test(timeout=120),
    pytest.mark.usefixtures("told_in_the_log"),
]

ON_AGAIN_S = 25.0
"""How long a write may take to succeed; a coarse net, the measured times are printed."""


@pytest.fixture
def service(cluster: GaleraCluster, service_at: ServiceAt) -> Client:
    """A service that knows all nodes, the first one first."""
    return service_at(url_of(*cluster.nodes))


async def until(condition: Callable[[], bool], what: str) -> float:
    """Wait for it; returns how long that took, in _s."""
    began = time.monotonic()
    assert await asyncio.to_thread(wait_until, condition, timeout_s=ON_AGAIN_S), what
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def under_load(service: Client, ledger: Ledger) -> AsyncIterator[None]:
    """Clients of the service, some of whose writes are acknowledged already."""
    async with Load(service, ledger, keyed=True):
        await until(lambda: ledger.acknowledged > 20, "there is no load")
        yield


async def goes_on(ledger: Ledger) -> float:
    """Wait for the next acknowledged write; returns how long that took, in _s."""
    before = ledger.acknowledged
    return await until(lambda: ledger.acknowledged > before, "no write succeeded")


def differences(ledger: Ledger, cluster: GaleraCluster) -> list[str]:
    """Of all nodes, one that was killed among them: it has caught up."""
    return [each for node in cluster.nodes for each in ledger.compare(RawSql(node.url_for(NAME)))]


async def test_a_node_that_is_killed_loses_no_acknowledged_write(
    service: Client, cluster: GaleraCluster, sql: RawSql
):
    ledger, (first, *_) = Ledger(), cluster.nodes

    async with under_load(service, ledger):
        await asyncio.to_thread(first.kill)
        took_s = await goes_on(ledger)
        await asyncio.sleep(1.0)
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(cluster.wait_until_whole)

    print(f"first write {took_s:.2f} s after the kill; {dict(ledger.answers)}")
    assert differences(ledger, cluster) == []


@pytest.mark.long
async def test_a_cluster_without_a_quorum_answers_503_and_recovers(
    service: Client, cluster: GaleraCluster, sql: RawSql
):
    """Two of three hang: the third is alone, and answers that it is not ready."""
    ledger, (first, second, third) = Ledger(), cluster.nodes

    async with under_load(service, ledger):
        second.freeze()
        third.freeze()
        await until(lambda: first.status("cluster_status") == ["non-Primary"], "it is not alone")
        ledger.answers.clear()
        await until(lambda: ledger.answers["503 not_applied"] >= 3, "no request was refused")
        alone = dict(ledger.answers)
        ready = await service.get("/readyz")
        second.thaw()
        third.thaw()
        took_s = await goes_on(ledger)
        await asyncio.sleep(0.5)
    await asyncio.to_thread(cluster.wait_until_whole)

    print(f"alone: {alone}; first write {took_s:.2f} s after the others went on; {dict(ledger.answers)}")
    assert not [answer for answer in alone if answer.startswith("2")]
    assert ready.code == 503
    assert differences(ledger, cluster) == []


@pytest.mark.long
async def test_a_node_that_hangs_and_wakes_loses_no_acknowledged_write(
    service: Client, cluster: GaleraCluster, sql: RawSql
):
    """It wakes as a node without its cluster, with connections of the service's on it, and joins it again."""
    ledger, (first, *_) = Ledger(), cluster.nodes

    async with under_load(service, ledger):
        first.freeze()
        took_s = await goes_on(ledger)
        await asyncio.sleep(4.0)
        on_s = await goes_on(ledger)
        first.thaw()
        await asyncio.sleep(2.0)
    await asyncio.to_thread(cluster.wait_until_whole)

    print(f"first write {took_s:.2f} s after it hung, then {on_s:.2f} s; {dict(ledger.answers)}")
    assert differences(ledger, cluster) == []


@pytest.mark.long
async def test_two_nodes_that_are_killed_leave_a_third_that_waits_for_them(
    service: Client, cluster: GaleraCluster, sql: RawSql
):
    ledger, (first, second, _) = Ledger(), cluster.nodes

    async with under_load(service, ledger):
        await asyncio.to_thread(first.kill)
        await asyncio.to_thread(second.kill)
        await asyncio.sleep(3.0)
        for node in (first, second):
            await asyncio.to_thread(node.start)
        took_s = await goes_on(ledger)
        await asyncio.sleep(0.5)
    await asyncio.to_thread(cluster.wait_until_whole)

    print(f"first write {took_s:.2f} s after the others were started; {dict(ledger.answers)}")
    assert differences(ledger, cluster) == []


@pytest.mark.long
async def test_two_writing_nodes_of_which_one_is_killed_lose_no_acknowledged_write(
    service_at: ServiceAt, cluster: GaleraCluster, sql: RawSql
):
    first, second, third = cluster.nodes
    services = [service_at(url_of(first, third)), service_at(url_of(second, third))]
    ledger = Ledger()

    async with Load(services[0], ledger, seed=1, keyed=True), Load(services[1], ledger, seed=2, keyed=True):
        for victim in (second, first):
            await asyncio.sleep(1.0)
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(3.0)
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(cluster.wait_until_whole)

    print(dict(ledger.answers))
    assert ledger.acknowledged > 100, "there was no load"
    assert differences(ledger, cluster) == []
