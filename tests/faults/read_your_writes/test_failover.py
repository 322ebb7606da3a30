"""A failover that loses a write: the replica takes over without it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from conf import Settings
from db import Database
from tests.faults.read_your_writes.conftest import NAME, Recorded, a_primary, after, catch_up, cut_off, write
from tests.fixtures.logs import ExpectLog
from tests.fixtures.pgbouncer import Bouncer
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.server import Client
from tests.fixtures.standby import Standby, standby_of

pytestmark = [pytest.mark.gen_test(timeout=60)]


@pytest.fixture
def primary() -> Iterator[PostgresCluster]:
    """A cluster for each test: it is gone afterwards."""
    yield from a_primary()


@pytest.fixture
def standby(primary: PostgresCluster) -> Iterator[Standby]:
    """Which takes over."""
    with standby_of(primary) as standby:
        yield standby


@pytest.mark.debian
class TestAFailoverBehindPgBouncer:
    """The connections of the service, which are PgBouncer's clients, outlive it."""

    @pytest.fixture
    def address(self, make_proxy: MakeProxy, primary: PostgresCluster) -> Proxy:
        """The address of the primary, whichever server that is."""
        return make_proxy((primary.host, primary.port))

    @pytest.fixture
    def settings(self, primary: PostgresCluster, address: Proxy, settings: Settings) -> Iterator[Settings]:
        given = settings.database.url
        assert given is not None
        bouncer = Bouncer(primary, port=address.port)
        urls = {"url": SecretStr(bouncer.url_of(given.get_secret_value())), "reader_url": None}
        database = settings.database.model_copy(update={**urls, "pooler": "pgbouncer", "pool_size": 1})
        yield settings.model_copy(update={"database": database})
        bouncer.stop()

    async def test_a_write_that_follows_on_the_same_connection_hides_no_loss(
        self,
        client: Client,
        database: Database,
        primary: PostgresCluster,
        standby: Standby,
        address: Proxy,
        expect_log: ExpectLog,
    ):
        """Nor is it refused: it runs again over another connection."""
        survived = await write(client)
        catch_up(primary, standby)
        cut_off(standby)
        lost = await write(client)
        connection = database.writer.engine.pool.checkedin()  # type: ignore[attr-defined]
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)
        address.lead_to((standby.host, standby.port))

        with expect_log("onfinish", "has lost a transaction"), expect_log("onfinish", ".", required=False):
            follows = await write(client)
        read = [
            await client.get(each.headers["Location"], headers=after(each))
            for each in (survived, lost, follows)
        ]

        assert connection == 1
        assert [(each.code, each.headers.get("Write-Lost")) for each in read] == [
            (200, None),
            (404, "1"),
            (200, None),
        ]


@pytest.mark.slow
class TestAFailoverThatLosesAWrite:
    """The replica takes over without what was written last."""

    @pytest.fixture
    def settings(self, primary: PostgresCluster, standby: Standby, settings: Settings) -> Settings:
        """Both hosts in both URLs, as one that survives a failover has them."""
        hosts = "&".join(f"host={one.host}:{one.port}" for one in (primary, standby))
        base = f"postgresql://{primary.user}:{primary.password}@/{NAME}?{hosts}&target_session_attrs="
        urls = {"url": SecretStr(base + "read-write"), "reader_url": SecretStr(base + "prefer-standby")}
        return settings.model_copy(update={"database": settings.database.model_copy(update=urls)})

    async def test_each_lost_write_is_told_and_each_that_survived_is_read(
        self,
        client: Client,
        recorded: Recorded,
        primary: PostgresCluster,
        standby: Standby,
        expect_log: ExpectLog,
    ):
        survived = await asyncio.gather(*(write(client) for _ in range(30)))
        await asyncio.to_thread(catch_up, primary, standby)
        await asyncio.to_thread(cut_off, standby)
        lost = await asyncio.gather(*(write(client) for _ in range(30)))
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)

        with expect_log("onfinish", ".", required=False), expect_log("tornado", ".", required=False):
            told = [
                [await client.get(each.headers["Location"], headers=after(each)) for each in writes]
                for writes in (survived, lost)
            ]
            both = await client.get("/export", headers=after(survived[0], lost[0]))
            again = await write(client)
        seen = await client.get(again.headers["Location"], headers=after(again))

        found = [Counter((each.code, each.headers.get("Write-Lost")) for each in answers) for answers in told]
        assert found == [{(200, None): 30}, {(404, "1"): 30}]
        assert both.headers["Write-Lost"] == "1", "a streamed answer tells of it as well"
        assert (seen.code, seen.headers.get("Write-Lost")) == (200, None)
        assert recorded.counts["lost"] == 31
