"""The cluster of these tests, which is whole before each and after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.galera import GaleraCluster, running_galera


@pytest.fixture(scope="package")
def running_cluster() -> Iterator[GaleraCluster]:
    """Three nodes; a test takes `cluster`."""
    yield from running_galera()


@pytest.fixture
def cluster(running_cluster: GaleraCluster) -> Iterator[GaleraCluster]:
    """Whole before the test and after it."""
    running_cluster.wait_until_whole()
    yield running_cluster
    for node in running_cluster.nodes:
        node.thaw()
        if not node.runs:
            node.start()
    running_cluster.wait_until_whole()


@pytest.fixture
def empty(cluster: GaleraCluster) -> Iterator[str]:
    """The name of an empty database."""
    name = cluster.nodes[0].create_database()
    yield name
    cluster.wait_until_whole()
    cluster.nodes[0].drop_database(name)
