"""`check` sees the cluster, each host of the URL, and how far a replica is behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import db.schema.migrate
from conf import DatabaseSettings
from db.doctor.examine import examine
from db.doctor.findings import Finding, Plan
from tests.distributed.galera.conftest import NAME, url_of
from tests.fixtures.galera import GaleraCluster
from tests.fixtures.mariadb import MariaDbServer
from tests.fixtures.postgres import free_port
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.debian

PRODUCTION = Plan(processes=1, production=True, request_timeout_s=30)


def found(url: str, **settings: Any) -> dict[str, list[Finding]]:
    by_subject: dict[str, list[Finding]] = {}
    for finding in examine(DatabaseSettings(url=url, connect_timeout_s=1, **settings), PRODUCTION):
        by_subject.setdefault(finding.subject, []).append(finding)
    return by_subject


def test_a_node_shows_its_cluster_and_what_is_lost_with_what_its_users_set_on_purpose(
    cluster: GaleraCluster,
):
    """The nodes here have innodb_flush_log_at_trx_commit = 0."""
    findings = found(cluster.nodes[0].url_for(NAME))

    (galera,), (durability,) = findings["galera"], findings["durability"]
    assert galera.level == durability.level == "ok"
    assert galera.message.startswith("3 nodes, Primary, Synced, provider ")
    assert "a node's crash loses nothing" in durability.message
    assert "all nodes at once the last second" in durability.message


def test_each_host_of_the_url_is_shown(cluster: GaleraCluster):
    url = url_of(*cluster.nodes[:2]) + f"&host=127.0.0.1:{free_port()}"

    hosts = found(url)["host"]

    assert [host.level for host in hosts] == ["ok", "ok", "warning"]
    assert [
        f"127.0.0.1:{node.port} is a Galera node, Synced, takes writes" for node in cluster.nodes[:2]
    ] == [host.message for host in hosts[:2]]
    assert "is of no use now" in hosts[2].message


def test_a_replica_shows_its_lag_and_what_a_failover_to_it_may_lose(
    own_mariadb_server: Callable[..., MariaDbServer],
):
    primary = own_mariadb_server(options={"log-bin": "bin", "server-id": "1"})
    replica = own_mariadb_server(options={"server-id": "2"})
    name = primary.create_database()
    replica._execute(
        f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, "
        f"MASTER_USER='{primary.user}', MASTER_PASSWORD='{primary.password}', "
        "MASTER_LOG_FILE='bin.000001', MASTER_LOG_POS=4"
    )
    replica._execute("START SLAVE")
    db.schema.migrate.upgrade(DatabaseSettings(url=primary.url_for(name)))
    urls = {"url": primary.url_for(name), "reader_url": replica.url_for(name)}
    primary._execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    assert wait_until(
        lambda: (
            db.schema.migrate.current(DatabaseSettings(url=urls["reader_url"])) == db.schema.migrate.head()
        ),
        timeout_s=20,
    )

    in_step = found(**urls)
    replica._execute("STOP SLAVE")
    stopped = found(**urls)
    replica._execute("RESET SLAVE ALL")
    no_replica = found(**urls)

    assert [(each.level, each.message) for each in in_step["replica"]] == [("ok", "a replica, 0 s behind")]
    assert [(each.level, each.message[:28]) for each in stopped["replica"]] == [
        ("error", "replication does not run the")
    ]
    assert [each.message[:20] for each in no_replica["replica"]] == ["it is no replica: no"]
    assert in_step["durability"][0].level == "warning"
    assert "may be lost where one of them takes the server's place" in in_step["durability"][0].message
