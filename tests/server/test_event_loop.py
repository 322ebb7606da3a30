"""The event loop that the server runs on."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import socket
import struct
from pathlib import Path
from typing import Literal

import pytest

from conf import Settings, SettingsError
from conf.settings import HttpSettings
from server.processes.event_loop import check_event_loop, run_loop
from tests.fixtures.databases import RawSql
from tests.fixtures.process import StartServer
from tests.fixtures.waiting import wait_until

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def settings_with(loop: Literal["auto", "asyncio", "uvloop"]) -> Settings:
    return Settings(http=HttpSettings(event_loop=loop))


async def loop_now() -> str:
    return type(asyncio.get_running_loop()).__module__


@pytest.fixture
def no_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "uvloop" else found(name, *more)
    )


def test_the_loop_of_asyncio_is_to_be_had_beside_uvloop():
    assert run_loop(loop_now(), settings_with("asyncio")).split(".")[0] == "asyncio"


def test_without_uvloop_auto_is_the_loop_of_asyncio(no_uvloop: None):
    check_event_loop(settings_with("auto"))

    assert run_loop(loop_now(), settings_with("auto")).split(".")[0] == "asyncio"


def test_uvloop_that_is_not_installed_is_one_line_that_names_the_package(no_uvloop: None):
    with pytest.raises(SettingsError) as told:
        check_event_loop(settings_with("uvloop"))

    (fault,) = told.value.faults
    assert fault.setting == "http.event_loop"
    assert "pip install uvloop" in fault.message


@on_postgresql
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("end", ["closed", "reset"])
@pytest.mark.usefixtures("shelves")
def test_a_client_that_leaves_is_noticed_while_its_request_runs(
    loop: str, end: str, database_url: str, start_server: StartServer, sql: RawSql
):
    """Closed or reset: the statement of a read without a waiting client is ended, on either loop."""
    server = start_server("--event-loop", loop, url=database_url)
    waiting = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with sql.connect() as lock:
        cursor = lock.cursor()
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE shelves")
        client = server.connect()
        client.request("GET", "/shelves")
        assert wait_until(lambda: sql(waiting) == [{"n": 1}], timeout_s=10)
        if end == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

        assert wait_until(lambda: sql(waiting) == [{"n": 0}], timeout_s=10)


@on_sqlite
@pytest.mark.parametrize(("loop", "processes"), [("auto", "1"), ("asyncio", "2"), ("uvloop", "2")])
@pytest.mark.usefixtures("shelves")
def test_each_serves_and_ends(loop: str, processes: str, database_url: str, start_server: StartServer):
    """A row goes in, comes out, and at SIGTERM the server ends with 0, on each loop."""
    server = start_server("--event-loop", loop, "--processes", processes, "--grace-s", "0", url=database_url)

    made = server.request("POST", "/shelves", {"name": "Store"})
    found = server.request("GET", f"/shelves/{made.body['id']}")
    stats = server.request("GET", "/stats").body["processes"]

    assert (made.status, found.status) == (201, 200)
    assert found.body == made.body
    for each in stats:
        libraries = Path(f"/proc/{each['pid']}/maps").read_text()
        assert ("/uvloop/" in libraries) == (loop != "asyncio")
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
