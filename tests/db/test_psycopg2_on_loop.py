"""psycopg2 in greenlets: its asynchronous connections do what others do, and nothing changes for these."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions
from pydantic import ValidationError
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.backends.drivers.hosts import each_host
from db.capacity.executor import GreenletExecutor, ThreadExecutor
from db.errors import DatabaseError, StatementFailed
from tests.db.counters import add, create_counters, read, value
from tests.fixtures.backends import GREENLETS
from tests.fixtures.databases import RawSql
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.gen_test

on_loop = pytest.mark.parametrize("backend", GREENLETS, indirect=True)


def driver(session: Session) -> Any:
    return session.connection().connection.dbapi_connection


async def do(database: Database, work: Callable[[Session], Any], **options: Any) -> Any:
    async with database.unit_of_work(**options) as unit:
        return await unit.run(work, unit.session)


@pytest.fixture
def silent_host() -> Iterator[int]:
    """The port of a host that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class TestWhatOthersOfTheProcessKeep:
    @on_loop
    async def test_copy_and_large_objects_outside_of_the_loop_are_as_before(
        self, database: Database, database_url: str
    ):
        """While a greenlet of ours waits: in a thread, on a connection of another user of psycopg2."""

        def copied() -> tuple[str, bytes]:
            with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
                out = io.StringIO()
                cursor.copy_expert("COPY (SELECT 1 UNION SELECT 2 ORDER BY 1) TO STDOUT", out)
                large = connection.lobject(0, "wb")
                large.write(b"large")
                large.seek(0)
                return out.getvalue(), connection.lobject(large.oid, "rb").read()

        waiting = asyncio.create_task(
            do(database, lambda session: session.execute(text("SELECT pg_sleep(1)")))
        )
        await asyncio.sleep(0.2)

        assert await asyncio.to_thread(copied) == ("1\n2\n", b"large")
        assert extensions.get_wait_callback() is None
        assert not waiting.done()
        await waiting

    @on_loop
    async def test_a_script_in_a_thread_has_copy_too(self, database: Database, sql: RawSql):
        create_counters(sql)

        def script() -> None:
            with database.session_scope() as session, driver(session).cursor() as cursor:
                cursor.copy_from(io.StringIO("7\t40\n"), "counters")

        await asyncio.to_thread(script)

        assert sql("SELECT n FROM counters WHERE id = 7")[0]["n"] == 40

    @on_loop
    async def test_copy_and_large_objects_in_a_greenlet_are_refused_with_the_way_out(
        self, database: Database, sql: RawSql
    ):
        """Before anything is sent: the unit of work stays usable."""
        create_counters(sql)

        def work(session: Session) -> None:
            with closing(driver(session).cursor()) as cursor:
                for use in (
                    lambda: cursor.copy_expert("COPY counters TO STDOUT", io.StringIO()),
                    lambda: cursor.copy_from(io.StringIO("9\t9\n"), "counters"),
                    lambda: cursor.copy_to(io.StringIO(), "counters"),
                    lambda: driver(session).lobject(),
                ):
                    with pytest.raises(psycopg2.NotSupportedError, match="threads"):
                        use()
            add(session)

        await do(database, work)

        assert value(sql) == 1


class TestConnections:
    @on_loop
    async def test_what_is_larger_than_the_sockets_buffers_is_sent_while_the_loop_goes_on(
        self, database: Database
    ):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        sent = text("SELECT length(:much)")
        length = await do(database, lambda session: session.scalar(sent, {"much": "x" * 20_000_000}))
        counting.cancel()

        assert length == 20_000_000
        assert turns > 10

    @on_loop
    async def test_one_that_the_server_ends_while_it_is_idle_does_not_keep_the_loop_busy(
        self, database: Database, sql: RawSql
    ):
        """Its socket can be read from for ever; the next unit of work has another one."""
        create_counters(sql)
        pid = await do(database, lambda session: session.scalar(text("SELECT pg_backend_pid()")))
        sql(f"SELECT pg_terminate_backend({pid})")
        await asyncio.sleep(0.2)

        used_s = time.thread_time()
        await asyncio.sleep(0.3)

        assert time.thread_time() - used_s < 0.15
        await do(database, add)
        assert value(sql) == 1

    @on_loop
    async def test_one_that_another_thread_closes_is_closed_on_the_loop(self, database: Database):
        """The collector may run anywhere; a descriptor that the loop watches is not closed under it."""
        found: list[Any] = []
        await do(database, lambda session: found.append(driver(session)))
        [connection] = found

        await asyncio.to_thread(connection.close)
        await asyncio.sleep(0)

        assert connection.closed
        assert await do(database, lambda session: session.scalar(text("SELECT 1")), retries=False) == 1


class TestHosts:
    @on_loop
    async def test_a_host_that_never_answers_is_left_after_its_own_time_out(
        self, database_url: str, silent_host: int
    ):
        """And the loop goes on meanwhile."""
        url = make_url(database_url)
        hosts = [f"127.0.0.1:{silent_host}", f"localhost:{url.port}"]
        several = url.set(host=None, port=None).update_query_dict({"host": hosts})
        settings = DatabaseSettings(url=several.render_as_string(hide_password=False), connect_timeout_s=1)
        database = Database(settings)
        began = time.monotonic()

        async with asyncio.timeout(10):
            connecting = asyncio.create_task(do(database, lambda session: session.scalar(text("SELECT 1"))))
            lags = []
            while not connecting.done():
                before = time.monotonic()
                await asyncio.sleep(0.01)
                lags.append(time.monotonic() - before)
            assert await connecting == 1
        took_s = time.monotonic() - began
        await database.close()

        assert 0.9 < took_s < 5
        assert sorted(lags)[len(lags) // 2] < 0.1

    @on_loop
    async def test_names_are_looked_up_in_a_thread(self, database_url: str, monkeypatch: pytest.MonkeyPatch):
        """A resolver that does not answer at once stops one connect, and not the loop."""
        threads: list[int] = []
        look_up = socket.getaddrinfo

        def slowly(*arguments: Any, **options: Any) -> Any:
            threads.append(threading.get_ident())
            time.sleep(0.3)
            return look_up(*arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        url = make_url(database_url).set(host="localhost").render_as_string(hide_password=False)
        database = Database(DatabaseSettings(url=url))

        assert await do(database, lambda session: session.scalar(text("SELECT 1"))) == 1
        await database.close()

        assert threads != []
        assert threading.get_ident() not in threads

    async def test_a_name_that_is_not_known_is_unreachable(self):
        url = "postgresql://me@no-such-host.invalid/x"
        database = Database(DatabaseSettings(url=url, executor="greenlets", connect_timeout_s=5))
        with pytest.raises(DatabaseError, match="cannot be reached"):
            await do(database, read)
        await database.close()

    def test_each_host_has_its_own_port_and_address(self):
        hosts = each_host({"host": "a,b", "hostaddr": "1.1.1.1,2.2.2.2", "port": "1,2", "dbname": "x"})

        assert hosts == [
            {"dbname": "x", "host": "a", "hostaddr": "1.1.1.1", "port": "1"},
            {"dbname": "x", "host": "b", "hostaddr": "2.2.2.2", "port": "2"},
        ]
        assert each_host({"host": "a,b", "port": "5"}) == [
            {"host": "a", "port": "5"},
            {"host": "b", "port": "5"},
        ]
        assert each_host({"host": "/run/postgresql"}) == [{"host": "/run/postgresql"}]
        assert each_host({"service": "s", "host": "a,b"}) == [{"service": "s", "host": "a,b"}]


class TestTheSetting:
    @pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
    async def test_the_executor_is_the_one_that_is_named(self, database_url: str):
        for name, kind in (("threads", ThreadExecutor), ("greenlets", GreenletExecutor)):
            database = Database(DatabaseSettings(url=database_url, executor=name))
            assert type(database.writer.executor) is type(database.reader.executor) is kind
            assert await do(database, lambda session: session.scalar(text("SELECT 1")), read_only=True) == 1
            await database.close()

    @pytest.mark.parametrize(
        ("url", "executor"),
        [
            ("postgresql+asyncpg://h/d", "threads"),
            ("postgresql+psycopg://h/d", "threads"),
            ("sqlite+aiosqlite:///x.db", "threads"),
            ("sqlite:///x.db", "greenlets"),
            ("mysql+pymysql://h/d", "greenlets"),
        ],
    )
    def test_one_that_the_driver_cannot_be_used_in_is_a_fault(self, url: str, executor: str):
        with pytest.raises(ValidationError, match=r"executor: .* only, and psycopg2 alone in both"):
            DatabaseSettings(url=url, executor=executor)

    @pytest.mark.parametrize("url", ["postgresql+asyncpg://h/d", "sqlite:///x.db", "postgresql://h/d"])
    def test_auto_fits_every_driver(self, url: str):
        assert DatabaseSettings(url=url).executor == "auto"


@on_loop
async def test_an_error_leaves_the_connection_to_the_next(database: Database, sql: RawSql):
    create_counters(sql)
    pid = "SELECT pg_backend_pid()"
    before = await do(database, lambda session: session.scalar(text(pid)))
    with pytest.raises(StatementFailed):
        await do(database, lambda session: session.execute(text("SELECT 1/0")))

    assert await do(database, lambda session: session.scalar(text(pid))) == before
    assert wait_until(lambda: not sql("SELECT 1 AS x FROM pg_stat_activity WHERE state LIKE 'idle in%'"))


@on_loop
async def test_functions_that_send_nothing_follow_one_another(database: Database):
    """Each has ended when its call has begun: there is nothing that it waits for."""
    async with database.unit_of_work() as unit:
        first = await unit.run(str, 1)
        second = await unit.run(str, 2)

    assert (first, second) == ("1", "2")
