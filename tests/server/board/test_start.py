"""The board as it is started for the first time, on a database that is empty."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tests.fixtures.databases import RawSql
from tests.fixtures.process import receive
from tests.fixtures.waiting import wait_until


def test_a_new_sqlite_file_gets_its_schema_at_the_start(start_server, tmp_path):
    """Nothing has to be run before the first request, which is kept."""
    server = start_server(url=f"sqlite:///{tmp_path / 'new.db'}")

    assert server.request("GET", "/readyz").status == 200
    assert server.request("POST", "/teams", {"name": "Store"}).status == 201
    assert RawSql(f"sqlite:///{tmp_path / 'new.db'}")("SELECT name FROM teams") == [{"name": "Store"}]


def test_development_is_the_default_and_puts_its_file_where_it_was_started(start_server):
    """No setting at all: SQLite in a file of the working folder, on a laptop."""
    server = start_server("--port", "0", "--environment", "development")

    assert "listens on" in server.out.splitlines()[0]
    second, third = server.out.splitlines()[1:3]
    assert second.split() == ["database", "sqlite:///onfinish.db"]
    assert third.strip().endswith("/onfinish.db")
    assert Path(third.strip()).is_file()
    for path in ("", "-/live", "docs", "compare"):
        assert f"http://127.0.0.1:{server.port}/{path} " in server.out
    told = " ".join(server.out.split())
    assert "next the board is empty: `python -m server seed` adds example teams and tasks" in told
    assert server.request("POST", "/teams", {"name": "Store"}).status == 201
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_in_memory_sqlite_serves_and_ends(start_server):
    """The database is made by the process and goes with it."""
    server = start_server("--grace-s", "0", url="sqlite://")

    assert server.request("POST", "/teams", {"name": "Store"}).status == 201
    assert server.request("GET", "/teams").body["items"][0]["name"] == "Store"
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_a_file_that_is_new_gets_its_schema_once(start_server, tmp_path):
    """The parent brings it up to date, before there is a child that could interfere."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    server = start_server("--processes", "2", "--grace-s", "0", url=url)

    assert "next      the board is empty" in server.out
    assert server.request("POST", "/teams", {"name": "Store"}).status == 201
    assert RawSql(url)("SELECT name FROM teams") == [{"name": "Store"}]
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_an_upload_in_flight_is_answered_in_memory_too(start_server):
    """A request that began before the signal is served, also where its body ends after it."""
    server = start_server("--grace-s", "0.2", url="sqlite://")
    body = b'{"name": "Store"}'
    with contextlib.closing(server.connect()) as connection:
        connection.putrequest("POST", "/teams")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:5])
        assert server.request("GET", "/livez").status == 200

        server.send_signal(signal.SIGTERM)
        assert wait_until(server.refuses_connections, timeout_s=3)
        connection.send(body[5:])
        reply = receive(connection)

    assert reply.status == 201
    assert server.wait() == 0
