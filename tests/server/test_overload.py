"""Overload of a server process: who cannot be served in time is told so at once."""

from __future__ import annotations

import contextlib
import http.client
import select
import time

import pytest

from tests.fixtures.databases import RawSql
from tests.fixtures.process import Reply, ServerProcess, StartServer, exchange, receive, send
from tests.fixtures.waiting import wait_until

POOL_SIZE = 2
MAX_WAITING = 3
REQUESTS = 30
POOL_TIMEOUT_S = 40.0


def slots(server: ServerProcess) -> dict[str, int]:
    [process] = server.request("GET", "/stats").body["processes"]
    found: dict[str, int] = process["pools"]["writer"]["slots"]
    return found


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("path", "body"), [("/books", {"title": "a book"}), ("/shelves", {})], ids=["early", "by a handler"]
)
@pytest.mark.usefixtures("shelves")
def test_as_many_are_served_as_work_and_may_wait_and_all_others_are_503_at_once(
    database_url: str, start_server: StartServer, sql: RawSql, path: str, body: dict[str, str]
):
    """30 writers behind a lock: two work, three wait, and 25 are refused while the lock is held.

    ``BooksHandler`` is ``refused_early``, ``ShelvesHandler`` is not.
    """
    server = start_server(
        *("--pool-size", f"{POOL_SIZE}", "--pool-max-waiting", f"{MAX_WAITING}"),
        *("--pool-timeout-s", f"{POOL_TIMEOUT_S}", "--request-timeout-s", "120"),
        url=database_url,
    )
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(sql.connect()).cursor()
        lock.execute(f"BEGIN; LOCK TABLE {path[1:]} IN ACCESS EXCLUSIVE MODE")
        clients: list[http.client.HTTPConnection] = [
            stack.enter_context(contextlib.closing(server.connect())) for _ in range(REQUESTS)
        ]
        waiting = {client.sock: client for client in clients}
        began = time.monotonic()
        for number, client in enumerate(clients):
            send(client, "POST", path, body or {"name": f"{number}"})

        refused: list[Reply] = []
        while len(refused) < REQUESTS - POOL_SIZE - MAX_WAITING:
            readable, _, _ = select.select(list(waiting), [], [], POOL_TIMEOUT_S / 2)
            assert readable, f"{len(refused)} of {REQUESTS} were answered while the lock was held"
            refused += [receive(waiting.pop(found)) for found in readable]
        refused_s = time.monotonic() - began
        full = slots(server)
        lock.execute("ROLLBACK")
        served = [receive(client) for client in waiting.values()]

    assert [reply.status for reply in served] == [201] * (POOL_SIZE + MAX_WAITING)
    assert [reply.status for reply in refused] == [503] * 25
    assert {reply.body["detail"] for reply in refused} == {
        "all 2 slots for writer are taken, and 3 callers wait for one already"
    }
    assert {reply.body["outcome"] for reply in refused} == {"not_applied"}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
    assert refused_s < POOL_TIMEOUT_S / 4
    assert full == {"size": 2, "taken": 2, "waiting": 3, "waiting_max": 3, "refused": 25}
    assert wait_until(lambda: slots(server)["taken"] == 0)
    assert sql(f"SELECT count(*) AS n FROM {path[1:]}") == [{"n": 5}]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("shelves")
def test_what_is_refused_early_is_an_answer_like_any_other(
    database_url: str, start_server: StartServer, sql: RawSql
):
    """It has its id and its access line; its connection is kept, after HEAD too. OPTIONS needs no slot."""
    server = start_server("--pool-size", "1", "--pool-max-waiting", "0", url=database_url)
    with (
        sql.connect() as locking,
        contextlib.closing(server.connect()) as held,
        contextlib.closing(server.connect()) as reading,
        contextlib.closing(server.connect()) as client,
    ):
        lock = locking.cursor()
        lock.execute("BEGIN; LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
        send(held, "POST", "/books", {"title": "a book"})
        send(reading, "GET", "/books")
        assert wait_until(lambda: slots(server)["taken"] == 1)

        refused = exchange(client, "POST", "/books", {"title": "a book"})
        headless = exchange(client, "HEAD", "/books")
        options = exchange(client, "OPTIONS", "/books")
        lock.execute("ROLLBACK")
        served = receive(held), receive(reading)
        last = exchange(client, "POST", "/books", {"title": "a book"})

    assert (refused.status, headless.status, options.status, last.status) == (503, 503, 204, 201)
    assert [one.status for one in served] == [201, 200]
    assert headless.body is None
    assert refused.body["request_id"] == refused.headers["X-Request-Id"]
    assert refused.headers["X-Content-Type-Options"] == "nosniff"
    assert f"503 POST /books (127.0.0.1) 0.00ms - {refused.body['request_id']}" in server.err
