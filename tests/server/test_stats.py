"""``/stats``: what every process is doing at this moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import Any

import pytest
from tornado.web import Application

from handlers import ApiHandler
from tests.fixtures.process import StartServer, send
from tests.fixtures.server import Serve
from tests.fixtures.waiting import wait_until
from tests.server.conftest import Seen

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

POOL = {
    "connections": {"max": 10, "used": 0, "idle": 0},
    "slots": {"size": 10, "taken": 0, "waiting": 0, "waiting_max": None, "refused": 0},
}


@on_postgresql
@pytest.mark.gen_test
async def test_a_server_at_rest(seen: Seen):
    """Its pid, its pools and slots, and that nothing is open."""
    stats = await seen.stats()

    assert stats.pop("uptime_s") >= 0
    assert stats == {
        "process": 0,
        "pid": os.getpid(),
        "draining": False,
        "requests_in_flight": 1,  # this one
        "pools": {"writer": POOL, "reader": POOL},
        "units": [],
    }


@pytest.mark.gen_test
async def test_an_open_unit_of_work_is_shown_with_its_request(seen: Seen, serve: Serve):
    """Its id, its age, whether it has a connection, and what has become of it so far; then it is gone."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class SlowHandler(ApiHandler):
        async def post(self) -> None:
            begun.set()
            await go_on.wait()
            go_on.clear()
            await self.run(self.session.connection)
            begun.set()
            await go_on.wait()

    client = serve(Application([("/slow", SlowHandler)], database=seen.database))
    request = asyncio.create_task(client.post("/slow", headers={"X-Request-Id": "abc.1"}))
    await begun.wait()
    begun.clear()
    [before] = (await seen.stats())["units"]
    go_on.set()
    await begun.wait()
    stats = await seen.stats()
    [during] = stats["units"]
    go_on.set()

    assert (await request).code == 200
    assert before.pop("age_s") <= during.pop("age_s")
    assert before == {
        "label": "POST SlowHandler",
        "request_id": "abc.1",
        "route": "",  # of another application than the one that is asked
        "pool": "writer",
        "has_slot": False,
        "has_connection": False,
        "outcome": "open",
    }
    assert during == before | {"has_slot": True, "has_connection": True}
    assert stats["pools"]["writer"]["slots"]["taken"] == 1
    assert stats["pools"]["writer"]["connections"]["used"] == 1
    after = await seen.stats()
    assert after["units"] == []
    assert after["pools"]["writer"]["connections"]["used"] == 0


@on_postgresql
@pytest.mark.gen_test
async def test_a_request_that_waits_for_a_lock_is_shown_with_its_route(seen: Seen, sql):
    """As an operator finds the unit that blocks the others."""
    created = (await seen.client.post("/shelves", {"name": "Store"})).json()
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN; LOCK TABLE shelves IN EXCLUSIVE MODE")
        path = f"/shelves/{created['id']}"
        request = asyncio.create_task(seen.client.patch(path, {"name": "Other"}))
        units: list[dict[str, Any]] = []
        while not units or not units[0]["has_connection"]:
            units = (await seen.stats())["units"]
        cursor.execute("ROLLBACK")

    assert (await request).code == 200
    assert units[0]["label"] == "PATCH ShelfHandler"
    assert units[0]["route"] == "/shelves/{shelf_id}"
    assert units[0]["has_connection"]


@pytest.mark.gen_test
async def test_what_a_job_has_open_is_shown_too(seen: Seen):
    """A scope has no request; it has a label."""
    entered, leave = threading.Event(), threading.Event()

    def job() -> None:
        with seen.database.session_scope(label="nightly job") as session:
            session.connection()
            entered.set()
            leave.wait(10)

    working = asyncio.create_task(asyncio.to_thread(job))
    await asyncio.to_thread(entered.wait, 10)
    [unit] = (await seen.stats())["units"]
    leave.set()
    await working

    assert unit["label"] == "nightly job"
    assert unit["has_connection"]
    assert "request_id" not in unit
    assert (await seen.stats())["units"] == []


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_process_that_is_stuck_is_shown_as_such(database_url, start_server: StartServer, sql):
    """Every process answers for itself; of one that does not, that is what is told."""
    server = start_server("--processes", "2", "--grace-s", "0", url=database_url)
    processes = server.request("GET", "/stats").body["processes"]
    assert [each["process"] for each in processes] == [0, 1]
    with sql.connect() as lock, contextlib.closing(server.connect()) as waiting:
        lock.execute("BEGIN IMMEDIATE")
        send(waiting, "POST", "/shelves", {"name": "Store"})

        def units() -> list[dict[str, Any]]:
            return [
                unit
                for process in server.request("GET", "/stats").body["processes"]
                for unit in process.get("units", [])
            ]

        assert wait_until(lambda: [unit["label"] for unit in units()] == ["POST ShelvesHandler"])
        lock.execute("ROLLBACK")

    os.kill(processes[0]["pid"], signal.SIGSTOP)
    try:
        stuck, other = server.request("GET", "/stats").body["processes"]
    finally:
        os.kill(processes[0]["pid"], signal.SIGCONT)

    assert stuck == {"process": 0, "error": "no answer within 1 s"}
    assert other["pid"] == processes[1]["pid"]
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
