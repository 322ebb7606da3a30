"""URLs of MySQL and MariaDB that name several hosts: one after the other, until one takes writes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.backends.mysql import hosts_of
from db.errors import OutcomeUnknown, Unavailable
from tests.fixtures.mariadb import USER, MariaDbServer
from tests.fixtures.postgres import free_port

pytestmark = pytest.mark.debian

MakeDatabase = Callable[..., Database]


@pytest.fixture
def backend() -> str:
    return "mariadb"


@pytest.fixture
def open_database(mariadb_server: MariaDbServer) -> Iterator[MakeDatabase]:
    """``open_database(port, …)`` is a database by those ports of this machine."""
    opened: list[Database] = []
    login = f"{USER}:{mariadb_server.password}"

    def open_database(*ports: int, url: str = "", **settings: Any) -> Database:
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
        url = url or f"mariadb+pymysql://{login}@/information_schema?{hosts}"
        opened.append(Database(DatabaseSettings(url=url, connect_timeout_s=1, **settings)))
        return opened[-1]

    yield open_database
    for database in opened:
        database.dispose()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that hangs: the kernel accepts, and nothing is ever sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def port_of(session: Session) -> int:
    return int(session.execute(text("SELECT @@port")).scalar_one())


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("mysql+pymysql://a/x", [("a", None)]),
        ("mysql+pymysql://a:1,b/x", None),
        ("mysql+pymysql://a,b:3307/x", [("a", 3307), ("b", 3307)]),
        ("mysql+pymysql:///x?host=a:1&host=b", [("a", 1), ("b", None)]),
        ("mysql+pymysql:///x?host=[::1]:1&host=b:2", [("::1", 1), ("b", 2)]),
    ],
)
def test_hosts_are_written_as_in_postgresqls_urls(url: str, hosts: list[object] | None):
    if hosts is None:
        with pytest.raises(ValueError, match="several hosts go into the query"):
            DatabaseSettings(url=url)
        return

    assert hosts_of(make_url(url)) == hosts


@pytest.mark.parametrize("read_only", [False, True])
def test_a_host_that_is_down_is_passed_over(
    open_database: MakeDatabase, mariadb_server: MariaDbServer, read_only: bool
):
    database = open_database(free_port(), mariadb_server.port)

    assert database.run_in_transaction(port_of, read_only=read_only) == mariadb_server.port


def test_a_host_that_hangs_costs_its_own_time_out_and_is_tried_last_for_a_while(
    open_database: MakeDatabase, mariadb_server: MariaDbServer, silent_port: int
):
    database = open_database(silent_port, mariadb_server.port)

    took_s = []
    for _ in range(2):
        began = time.monotonic()
        database.run_in_transaction(port_of)
        took_s.append(time.monotonic() - began)
        database.writer.engine.dispose()

    assert 0.9 < took_s[0] < 3
    assert took_s[1] < 0.9


def test_the_host_that_takes_writes_is_chosen_and_one_that_stops_to_is_left(
    open_database: MakeDatabase,
    mariadb_server: MariaDbServer,
    own_mariadb_server: Callable[..., MariaDbServer],
):
    other = own_mariadb_server()
    for server in (other, mariadb_server):  # may not write where the server is read-only
        server._execute("GRANT SELECT, INSERT ON *.* TO plain@127.0.0.1 IDENTIFIED BY 'plain'")
    name = other.create_database()
    other._execute(f"CREATE TABLE {name}.x (id INT)")
    url = f"mariadb+pymysql://plain:plain@/?host=127.0.0.1:{other.port}&host=127.0.0.1:{mariadb_server.port}"
    try:
        other._execute("SET GLOBAL read_only = ON")
        assert open_database(url=url).run_in_transaction(port_of) == mariadb_server.port
        other._execute("SET GLOBAL read_only = OFF")
        database = open_database(url=url)
        assert database.run_in_transaction(port_of) == other.port
        other._execute("SET GLOBAL read_only = ON")

        with pytest.raises(Unavailable, match="takes no writes"):
            database.run_in_transaction(
                lambda session: session.execute(text(f"INSERT INTO {name}.x VALUES (1)"))
            )
        assert database.run_in_transaction(port_of) == mariadb_server.port
    finally:
        database.dispose()
        mariadb_server._execute("DROP USER plain@127.0.0.1")


def test_a_commit_that_a_server_refuses_since_it_has_become_read_only_is_undone_for_certain(
    open_database: MakeDatabase, own_mariadb_server: Callable[..., MariaDbServer]
):
    """As in a switchover. A request runs no risk to be called unknown for it."""
    server = own_mariadb_server()
    server._execute("GRANT SELECT, INSERT ON *.* TO plain@127.0.0.1 IDENTIFIED BY 'plain'")
    name = server.create_database()
    server._execute(f"CREATE TABLE {name}.x (id INT)")
    database = open_database(url=f"mariadb+pymysql://plain:plain@127.0.0.1:{server.port}/{name}")

    def write(session: Session) -> None:
        session.execute(text("INSERT INTO x VALUES (1)"))
        server._execute("SET GLOBAL read_only = ON")

    with pytest.raises(Unavailable, match="takes no writes") as refused:
        database.run_in_transaction(write)

    assert not isinstance(refused.value, OutcomeUnknown)
    assert server._execute(f"SELECT * FROM {name}.x") == []


def test_a_replica_is_taken_where_any_server_will_do(
    open_database: MakeDatabase, own_mariadb_server: Callable[..., MariaDbServer]
):
    replica = own_mariadb_server(options={"read-only": "ON"})
    hosts = f"host=127.0.0.1:{free_port()}&host=127.0.0.1:{replica.port}&target_session_attrs="
    url = f"mariadb+pymysql://{USER}:{replica.password}@/information_schema?{hosts}"

    assert open_database(url=f"{url}any").run_in_transaction(port_of, read_only=True) == replica.port

    with pytest.raises(Unavailable, match="takes no writes"):
        open_database(url=f"{url}read-write").run_in_transaction(port_of)
    with pytest.raises(ValueError, match="read-write or any"):
        open_database(url=f"{url}primary")
