"""`migrate` at several nodes at once: one does it, the others wait for it and find nothing left to do."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import db.schema.migrate
from conf import DatabaseSettings
from db.errors import SchemaError
from db.schema import guards, lease
from tests.fixtures.databases import RawSql
from tests.fixtures.galera import GaleraCluster, Node
from tests.fixtures.logs import ExpectLog

pytestmark = pytest.mark.debian

ROOT = Path(__file__).parents[3]

HOLDS = """
import sys
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from db.errors import SchemaError
from db.schema.lease import leased

with create_engine(sys.argv[1], poolclass=NullPool).connect() as connection, leased(connection, 10):
    print("holds", flush=True)
    sys.stdin.readline()
    try:
        connection.exec_driver_sql("SELECT 1")
        print("went on", flush=True)
    except SchemaError as error:
        print(error, flush=True)
"""


@pytest.fixture
def holder(cluster: GaleraCluster, empty: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lease, over the first node; told to go on, it runs a statement."""
    command = [sys.executable, "-c", HOLDS, cluster.nodes[0].url_for(empty)]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "holds\n", process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def soon_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second without a sign of life is enough."""
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 1.5)


def settings_of(node: Node, name: str) -> DatabaseSettings:
    return DatabaseSettings(url=node.url_for(name))


def test_each_node_is_migrated_at_once_and_all_of_them_end_well(cluster: GaleraCluster, empty: str):
    together = threading.Barrier(len(cluster.nodes))

    def migrate(node: Node) -> None:
        together.wait()
        db.schema.migrate.upgrade(settings_of(node, empty))

    with ThreadPoolExecutor(len(cluster.nodes)) as threads:
        list(threads.map(migrate, cluster.nodes))

    for node in cluster.nodes:
        assert db.schema.migrate.current(settings_of(node, empty)) == db.schema.migrate.head()
        assert db.schema.migrate.drift(settings_of(node, empty)) == []


@pytest.mark.long
@pytest.mark.usefixtures("soon_dead")
def test_a_migration_that_lives_is_waited_for(
    holder: subprocess.Popen[str], cluster: GaleraCluster, empty: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guards, "QUEUE_TIMEOUT_S", 4)

    with pytest.raises(SchemaError, match="another migration is under way"):
        db.schema.migrate.upgrade(settings_of(cluster.nodes[1], empty))

    assert db.schema.migrate.current(settings_of(cluster.nodes[1], empty)) is None
    assert holder.communicate("go on\n", timeout=10)[0] == "went on\n"
    db.schema.migrate.upgrade(settings_of(cluster.nodes[1], empty))


@pytest.mark.usefixtures("soon_dead")
def test_a_migration_that_was_killed_is_followed_by_another(
    holder: subprocess.Popen[str], cluster: GaleraCluster, empty: str, expect_log: ExpectLog
):
    holder.kill()

    with expect_log("onfinish.schema", "no sign of life"):
        db.schema.migrate.upgrade(settings_of(cluster.nodes[1], empty))

    assert db.schema.migrate.current(settings_of(cluster.nodes[2], empty)) == db.schema.migrate.head()


@pytest.mark.long
@pytest.mark.usefixtures("soon_dead")
def test_a_migration_that_hung_and_was_replaced_does_nothing_more(
    holder: subprocess.Popen[str], cluster: GaleraCluster, empty: str, expect_log: ExpectLog
):
    holder.send_signal(signal.SIGSTOP)
    with expect_log("onfinish.schema", "no sign of life"):
        db.schema.migrate.upgrade(settings_of(cluster.nodes[1], empty))

    holder.send_signal(signal.SIGCONT)

    assert "another migration has taken over" in holder.communicate("go on\n", timeout=10)[0]


@pytest.mark.long
def test_a_migration_with_a_long_ddl_which_holds_up_all_commits_keeps_its_lease(
    cluster: GaleraCluster, empty: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 0.4)
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    sql = RawSql(cluster.nodes[0].url_for(empty))
    sql("CREATE TABLE many (id INT PRIMARY KEY)")
    sql("INSERT INTO many SELECT seq FROM seq_1_to_5000")
    taken_over: list[float] = []

    def take_over() -> None:
        engine = create_engine(cluster.nodes[1].url_for(empty), poolclass=NullPool)
        with engine.connect() as connection, lease.leased(connection, 60):
            taken_over.append(time.monotonic())

    engine = create_engine(cluster.nodes[0].url_for(empty), poolclass=NullPool)
    with ThreadPoolExecutor(1) as threads:
        with engine.connect() as connection, lease.leased(connection, 10):
            waiter = threads.submit(take_over)
            began = time.monotonic()
            connection.exec_driver_sql(
                "ALTER TABLE many ADD digest CHAR(128) AS (SHA2(REPEAT(id, 20000), 512)) STORED"
            )
            took_s = time.monotonic() - began
            connection.exec_driver_sql("SELECT 1")  # it has it still
            ended_at = time.monotonic()
        waiter.result()

    print(f"the DDL took {took_s:.1f} s")
    assert took_s > 2 * lease.DEAD_AFTER_S, "the DDL was too quick to show anything"
    assert taken_over[0] > ended_at
