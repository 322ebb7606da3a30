"""The command that looks whether the service can work here, at a cluster: which server is what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conf import DatabaseSettings
from db.doctor import examine as checkup
from db.doctor.findings import Finding
from tests.fixtures.databases import RawSql
from tests.fixtures.pgbouncer import MakeBouncer
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy
from tests.fixtures.standby import Standby, migrated, standby_of
from tests.fixtures.waiting import wait_until
from tests.server.test_check import PLAN

NAME = "service"


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresCluster]:
    with migrated(NAME, fsync="on", synchronous_commit="on") as primary:
        yield primary


@pytest.fixture(scope="module")
def standby(primary: PostgresCluster) -> Iterator[Standby]:
    with standby_of(primary) as standby:
        with primary.admin_connection() as connection, connection.cursor() as cursor:

            def streams() -> bool:
                cursor.execute("SELECT FROM pg_stat_replication WHERE state = 'streaming'")
                return bool(cursor.rowcount)

            assert wait_until(streams, timeout_s=15)
        yield standby


@pytest.fixture
def synchronous_names(primary: PostgresCluster) -> Iterator[Callable[[str], None]]:
    """``synchronous_names("*")`` is what the primary's COMMIT waits for; none after the test."""
    yield primary.set_synchronous_names
    primary.set_synchronous_names("")


def url_of(*clusters: PostgresCluster, query: str = "&target_session_attrs=read-write") -> str:
    hosts = "&".join(f"host={one.host}:{one.port}" for one in clusters)
    return f"postgresql://{clusters[0].user}:{clusters[0].password}@/{NAME}?{hosts}{query}"


def look(url: str, **settings: Any) -> dict[str, list[Finding]]:
    """The findings of each subject."""
    found: dict[str, list[Finding]] = {}
    for finding in checkup.examine(DatabaseSettings(url=url, **settings), PLAN):
        assert bool(finding.fix) == (finding.level != "ok"), finding
        found.setdefault(finding.subject, []).append(finding)
    return found


def told(found: dict[str, list[Finding]], subject: str) -> list[tuple[str, str]]:
    return [(finding.level, finding.message) for finding in found[subject]]


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_each_host_is_named_with_what_it_is(primary: PostgresCluster, standby: Standby, driver: str):
    found = look(url_of(standby, primary).replace("postgresql:", f"postgresql+{driver}:", 1))

    hosts = [message for _, message in told(found, "host")]
    assert f"{primary.host}:{primary.port}: the primary" in hosts
    assert any(message.startswith(f"{standby.host}:{standby.port}: a standby, ") for message in hosts)
    assert "hosts" not in found


def test_asynchronous_replication_is_no_durability(primary: PostgresCluster, standby: Standby):
    """It said that what is acknowledged is on the server's disk: it is, and that server may be gone."""
    [(level, message)] = told(look(url_of(primary)), "durability")

    assert level == "warning"
    assert message.startswith("asynchronous: acknowledged writes may be lost")


def test_a_standby_that_confirms_is_named_and_how_far_it_is(
    primary: PostgresCluster, standby: Standby, synchronous_names: Callable[[str], None]
):
    synchronous_names("*")
    assert wait_until(lambda: "sync," in str(told(look(url_of(primary)), "standbys")))

    found = look(url_of(primary))

    assert told(found, "durability") == [
        ("ok", "synchronous: what is acknowledged is on a standby's disk too (*)")
    ]
    [(level, standbys)] = told(found, "standbys")
    assert level == "ok"
    assert "sync, streaming" in standbys
    assert "bytes behind" in standbys


def test_a_database_whose_commit_is_local_waits_for_no_standby(
    primary: PostgresCluster, standby: Standby, synchronous_names: Callable[[str], None]
):
    admin = RawSql(primary.url_for(NAME))
    synchronous_names("*")
    admin(f"ALTER DATABASE {NAME} SET synchronous_commit = local")

    found = told(look(url_of(primary)), "durability")
    admin(f"ALTER DATABASE {NAME} RESET synchronous_commit")

    assert found == [
        ("warning", "synchronous_commit = local: no standby is waited for, although * is to confirm")
    ]


def test_where_no_standby_can_confirm_no_commit_succeeds(
    primary: PostgresCluster, standby: Standby, synchronous_names: Callable[[str], None]
):
    synchronous_names("another")

    [(level, message)] = told(look(url_of(primary)), "durability")

    assert level == "error"
    assert message.startswith("no COMMIT succeeds")


def test_a_role_without_rights_sees_no_less_of_what_is_lost(primary: PostgresCluster, standby: Standby):
    admin = RawSql(primary.url_for(NAME))
    admin("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    admin("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain")

    found = look(f"postgresql://plain:plain@{primary.host}:{primary.port}/{NAME}")

    assert told(found, "durability")[0][1].startswith("asynchronous")
    assert "pg_read_all_stats" in told(found, "standbys")[0][1]


def test_writes_that_may_land_on_a_standby_are_an_error(primary: PostgresCluster, standby: Standby):
    found = look(url_of(primary, standby, query=""))

    assert told(found, "hosts") == [("error", "writes go to the first that answers, which may be a standby")]


def test_two_servers_that_take_writes_are_an_error(primary: PostgresCluster):
    """As after a failover in which the old primary came back as one."""
    other = PostgresCluster()
    try:
        other.password = primary.password
        other.start()
        other.create_database(NAME)

        found = look(url_of(primary, other))
    finally:
        other.remove()

    [(level, message)] = told(found, "hosts")
    assert level == "error"
    assert "take writes both" in message


def test_a_host_that_is_down_is_named(primary: PostgresCluster, unused_port: int):
    url = url_of(primary).replace("&target", f"&host=127.0.0.1:{unused_port}&target", 1)

    [first, second] = told(look(url), "host")

    assert first == ("ok", f"{primary.host}:{primary.port}: the primary")
    assert second[0] == "warning"
    assert second[1].startswith(f"127.0.0.1:{unused_port} does not answer")


def test_a_proxy_in_between_is_seen(primary: PostgresCluster, make_proxy: MakeProxy):
    proxy = make_proxy((primary.host, primary.port))

    [(level, message)] = told(
        look(primary.url_for(NAME).replace(f":{primary.port}/", f":{proxy.port}/")), "between"
    )

    assert level == "ok"
    assert message.startswith(f"port {proxy.port} leads to port {primary.port}")


@pytest.mark.debian
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_pooler_in_between_is_seen(database_url: str, make_bouncer: MakeBouncer):
    found = look(make_bouncer().url_of(database_url), pooler="pgbouncer")

    assert told(found, "between") == [("ok", "a pooler: the id of its session is not the server's")]


def test_nothing_is_said_of_a_server_that_is_alone(postgres_cluster: PostgresCluster, database_url: str):
    found = look(database_url)

    assert not {"host", "hosts", "standbys", "between"} & found.keys()
