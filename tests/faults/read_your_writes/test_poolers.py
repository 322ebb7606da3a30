"""Poolers and proxies between the service and its servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from conf import Settings
from tests.faults.read_your_writes.conftest import DRIVERS, Recorded, after, ask, write
from tests.fixtures.pgbouncer import Bouncer
from tests.fixtures.postgres import PostgresCluster, free_port
from tests.fixtures.server import Client
from tests.fixtures.standby import Standby
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.gen_test(timeout=60)]


def answers(port: int) -> bool:
    """Whether there is a listener."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.debian
@pytest.mark.usefixtures("paused")
class TestBehindPgBouncer:
    @pytest.fixture
    def settings(self, primary: PostgresCluster, standby: Standby, settings: Settings) -> Iterator[Settings]:
        """One before each server, with two connections to it."""
        with contextlib.ExitStack() as stack:
            urls = {}
            for name, server in (("url", primary), ("reader_url", standby)):
                bouncer = Bouncer(server)
                stack.callback(bouncer.stop)
                given = getattr(settings.database, name).get_secret_value()
                urls[name] = SecretStr(bouncer.url_of(given))
            database = settings.database.model_copy(update={**urls, "pooler": "pgbouncer"})
            yield settings.model_copy(update={"database": database})

    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_the_marker_is_looked_up_in_the_transaction_that_reads(
        self, client: Client, recorded: Recorded, standby: Standby
    ):
        written = await write(client)
        path = written.headers["Location"]

        stale = await client.get(path)
        behind = [await client.get(each, headers=after(written)) for each in (path, "/export")]
        ask(standby, "SELECT pg_wal_replay_resume()")
        assert wait_until(lambda: ask(standby, "SELECT pg_get_wal_replay_pause_state()") == "not paused")
        for _ in range(500):
            if (await client.get(path)).code == 200:
                break
            await asyncio.sleep(0.01)
        in_step = await asyncio.gather(*(client.get(path, headers=after(written)) for _ in range(4)))

        assert (stale.code, [each.code for each in behind]) == (404, [200, 200])
        assert written.json()["id"] in behind[1].body.decode()
        assert [each.code for each in in_step] == [200] * 4
        assert recorded.counts == {"primary": 2, "reader": 4}


@pytest.mark.debian
@pytest.mark.usefixtures("paused")
class TestBehindHaProxy:
    @pytest.fixture
    def settings(
        self, primary: PostgresCluster, standby: Standby, settings: Settings, tmp_path: Path
    ) -> Iterator[Settings]:
        """Reads go to the primary and to the replica in turn, a connection each; none is kept for long."""
        port = free_port()
        servers = "".join(
            f"  server s{at} {one.host}:{one.port}\n" for at, one in enumerate((primary, standby))
        )
        conf = tmp_path / "haproxy.cfg"
        conf.write_text(
            "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\n"
            f"listen reads\n  bind 127.0.0.1:{port}\n  balance roundrobin\n{servers}"
        )
        haproxy = subprocess.Popen(["haproxy", "-db", "-f", str(conf)], stderr=subprocess.DEVNULL)
        assert wait_until(lambda: answers(port))
        given = make_url(settings.database.url.get_secret_value())  # type: ignore[union-attr]
        reads = given.set(port=port).render_as_string(hide_password=False)
        own = {"reader_url": SecretStr(reads), "pool_recycle_s": 0}
        yield settings.model_copy(update={"database": settings.database.model_copy(update=own)})
        haproxy.terminate()
        haproxy.wait()

    async def test_it_is_looked_up_at_the_server_to_which_the_connection_leads(
        self, client: Client, recorded: Recorded
    ):
        with_token, without = Counter[int](), Counter[int]()
        for _ in range(40):
            written = await write(client)
            path = written.headers["Location"]
            without[(await client.get(path)).code] += 1
            with_token[(await client.get(path, headers=after(written))).code] += 1

        assert with_token == {200: 40}
        assert without[404] > 5, "HAProxy led no connection to the replica"
        assert recorded.counts["reader"] > 5, "HAProxy led no connection to the primary"
