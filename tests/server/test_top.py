"""``top``: what a server is doing, in a terminal."""

from __future__ import annotations

import contextlib

import pytest

from tests.fixtures.process import StartServer, send
from tests.fixtures.waiting import wait_until
from tests.server.test_cli import run

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_it_shows_the_open_units_of_a_running_server(database_url: str, start_server: StartServer, sql):
    server = start_server("--grace-s", "0", url=database_url)
    with sql.connect() as lock, contextlib.closing(server.connect()) as waiting:
        lock.execute("BEGIN IMMEDIATE")
        send(waiting, "POST", "/shelves", {"name": "Store"})

        def shown() -> str:
            done = run("top", "--once", "--port", str(server.port))
            assert done.status == 0
            return done.out

        assert wait_until(lambda: "waits for the file's write lock" in shown(), timeout_s=5)
        assert "POST /shelves" in shown()
        lock.execute("ROLLBACK")


def test_where_no_server_answers_it_says_so(unused_port: int):
    done = run("top", "--port", str(unused_port))

    assert done.status == 1
    assert f"no server answers on 127.0.0.1:{unused_port}" in done.err


@on_sqlite
def test_in_production_it_names_the_port_to_give(database_url: str, start_server: StartServer):
    environ = {"ENVIRONMENT": "production"}
    server = start_server("--grace-s", "0", "--port", "0", url=database_url, environ=environ)

    done = run("top", "--port", str(server.port))

    assert done.status == 1
    assert "--ops-port" in done.err
