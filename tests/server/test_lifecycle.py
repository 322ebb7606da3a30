"""The real process: how it starts, serves, drains and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from conf.program import COMMAND
from db.schema import migrate
from server.processes import lifecycle
from tests.fixtures.databases import RawSql
from tests.fixtures.migrations import set_revision
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.process import ROOT, ServerProcess, exchange, receive, seconds, send
from tests.fixtures.service import create_shelves
from tests.fixtures.waiting import wait_until

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

NOT_FOR_SERVING = {
    "alembic",
    "asyncpg",
    "dotenv",
    "mako",
    "matplotlib",
    "psycopg",
    "psycopg2",
    "pydantic_settings",
    "pymysql",
    "tqdm",
}
"""What other commands, other databases and extras need. SQLAlchemy's dialects are not among it: a table's
``postgresql_where`` loads PostgreSQL's."""

WritersHeldUp = Callable[[], AbstractContextManager[Callable[[], None]]]


@pytest.fixture
def writers_held_up(sql: RawSql, backend: str) -> WritersHeldUp:
    """A lock from outside: writes of shelves wait, reads do not. The block yields what ends it."""
    lock = {
        "sqlite": ["BEGIN IMMEDIATE"],
        "postgresql": ["BEGIN", "LOCK TABLE shelves IN EXCLUSIVE MODE"],
    }[backend]

    @contextlib.contextmanager
    def held_up() -> Iterator[Callable[[], None]]:
        with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
            for statement in lock:
                cursor.execute(statement)
            yield lambda: cursor.execute("ROLLBACK")

    return held_up


@contextlib.contextmanager
def in_flight(server: ServerProcess, name: str = "Store") -> Iterator[http.client.HTTPConnection]:
    """A connection whose request, a new shelf, has reached the server and is not answered yet."""
    with contextlib.closing(server.connect()) as connection:
        send(connection, "POST", "/shelves", {"name": name})
        for _ in range(2):  # connections are taken in turn: what came later is answered, so this one is read
            assert server.request("GET", "/livez").status == 200
        yield connection


# -- starting


def test_the_banner_names_the_port_that_was_free(database_url, start_server):
    """With port 0 the URL in the first line is the one that answers, and no password is shown."""
    server = start_server("--port", "0", url=database_url)

    first, second = server.out.splitlines()[:2]
    assert re.fullmatch(r"onfinish \(testing\) listens on http://127\.0\.0\.1:[1-9]\d*/", first)
    assert second.split()[0] == "database"
    assert "***" in second or "@" not in second
    assert server.request("GET", "/readyz").body == {"status": "ready"}


def test_a_new_sqlite_file_gets_its_schema_at_the_start(start_server, tmp_path):
    """Nothing has to be run before the first request."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    server = start_server(url=url)

    assert server.request("GET", "/readyz").status == 200
    assert RawSql(url)("SELECT key FROM idempotency_keys") == []


@on_sqlite
def test_a_server_whose_schema_is_the_newest_imports_no_more_than_it_needs(database_url, start_server):
    """Neither Alembic, which is for migrations, nor the drivers of other databases."""
    server = start_server(url=database_url, environ={"PYTHONPROFILEIMPORTTIME": "1"}, warm=False)
    assert server.request("GET", "/readyz").status == 200

    imported = set(re.findall(r"^import time: .*\| +(\S+)$", server.err, re.MULTILINE))

    assert {"tornado.web", "sqlalchemy.dialects.sqlite.pysqlite"} <= imported
    assert imported & NOT_FOR_SERVING == set()


@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_production_starts_with_nothing_but_the_database_url(database_url, start_server):
    """What the URL says of TLS wins over the environment's verify-full."""
    server = start_server(
        "--port",
        "0",
        "--grace-s",
        "0",
        environ={"ENVIRONMENT": "production"},
        url=f"{database_url}?sslmode=disable",
    )

    assert server.request("POST", "/shelves", {"name": "Store"}).status == 201
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_a_port_that_is_taken_is_told_in_one_line(start_server):
    """Exit 1, and a way out; no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        # Tornado leaves the socket that it could not bind to the garbage collector.
        server = start_server("--port", str(port), environ={"PYTHONWARNINGS": ""}, listens=False)

        assert server.wait() == 1
    assert server.err == (
        f"onfinish: cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Choose another port with --port, or 0 for a free one\n"
    )
    assert server.out == ""


def test_an_address_that_is_none_is_told_in_one_line(start_server):
    """The resolver's errors have numbers of their own, which are no errno."""
    server = start_server("--port", "0", "--address", "256.256.256.256.", listens=False)

    assert server.wait() == 1
    [line] = server.err.splitlines()
    assert line.startswith("onfinish: cannot listen on 256.256.256.256.:0: ")
    assert "Unknown error" not in line
    assert "--address" in line


def test_a_database_that_cannot_be_reached_stops_no_start(start_server, unused_port):
    """The server may come up before its database: /livez is 200, /readyz 503 and says why, naming no host."""
    server = start_server(url=f"postgresql://stranger:secret@127.0.0.1:{unused_port}/board")

    assert server.request("GET", "/livez").status == 200
    reply = server.request("GET", "/readyz")
    assert reply.status == 503
    assert reply.body["status"] == "not ready"
    assert "the database cannot be reached" in reply.body["reason"]
    assert "127.0.0.1" not in reply.body["reason"]
    refused = server.request("GET", "/shelves")
    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert "secret" not in server.out + server.err


def test_a_schema_that_is_not_there_is_told_with_the_way_out(start_server, postgres_cluster: PostgresCluster):
    """A server's database is not migrated unasked. The command that /readyz names mends it."""
    name = postgres_cluster.create_database()
    try:
        url = postgres_cluster.url_for(name)
        server = start_server("--grace-s", "0", url=url)
        reply = server.request("GET", "/readyz")
        assert reply.status == 503
        assert "there is no schema" in reply.body["reason"]
        command = re.search(rf"`{COMMAND} (\w+)`", reply.body["reason"])
        assert command is not None

        migration = start_server(command[1], url=url, listens=False)

        assert migration.wait() == 0, migration.err
        assert server.request("GET", "/readyz").status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        postgres_cluster.drop_database(name)


@on_postgresql
def test_a_schema_that_is_behind_is_told_with_both_revisions(database_url, start_server, sql):
    """/readyz names where the schema is, where it has to be, and the way there."""
    set_revision(sql, "kernel_0001")

    reply = start_server(url=database_url).request("GET", "/readyz")

    assert reply.status == 503
    assert reply.body["reason"] == (
        f"the schema is at kernel_0001, the code expects {migrate.head()}: run `{COMMAND} migrate`"
    )


@on_sqlite
def test_a_schema_from_a_newer_release_stops_the_start(database_url, start_server, sql):
    """An older server must not write into tables that it does not know; one line, exit 1."""
    set_revision(sql, "9999")

    server = start_server(url=database_url, listens=False)

    assert server.wait() == 1
    [_, line] = server.err.splitlines()  # the first says which database a variable has chosen
    assert "9999" in line
    assert "newer" in line


def test_a_statement_that_is_echoed_is_logged_once(start_server, tmp_path):
    """In the log, and not on the standard output beside it."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    create_shelves(RawSql(url))
    server = start_server("--database-echo", url=url)
    assert server.request("GET", "/shelves").status == 200

    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert len(re.findall("FROM shelves", server.out + server.err)) == 1
    assert "FROM shelves" in server.err


@pytest.mark.parametrize(
    ("environ", "origin"),
    [
        ({"DATABASE_URL": "sqlite:///x.db"}, "DATABASE_URL"),
        ({"DATABASE_DRIVERNAME": "sqlite", "DATABASE_DATABASE": "x.db"}, "DATABASE_DRIVERNAME"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_testing_says_so_where_a_variable_chooses_its_database(start_server, environ, origin, command):
    """A shell may have the real database's URL exported: the first line says which it is, and why."""
    server = start_server(command, "--grace-s", "0", environ=environ, listens=False)
    if command == "serve":
        server.wait_until_it_listens()
        server.send_signal(signal.SIGTERM)

    assert server.wait() == 0
    first = server.err.splitlines()[0]
    assert "environment testing: the database is sqlite:///x.db" in first
    assert f"from environment {origin}" in first


@pytest.mark.parametrize("arguments", [(), ("--database-url", "sqlite:///x.db")])
def test_testing_says_nothing_of_its_own_database_nor_of_one_on_the_command_line(start_server, arguments):
    server = start_server("migrate", *arguments, listens=False)

    assert server.wait() == 0
    assert server.err == ""


def test_testing_says_so_too_where_a_variable_chooses_what_reads_go_to(start_server):
    urls = ("postgresql://u:p@127.0.0.1:1/mine", "postgresql://u:p@127.0.0.1:1/theirs")
    server = start_server("config", "--database-url", urls[0], environ={"READER_URL": urls[1]}, listens=False)

    assert server.wait() == 0
    told = (
        "environment testing: reads go to postgresql://u:***@127.0.0.1:1/theirs, from environment READER_URL"
    )
    assert told in server.err


# -- stopping


@pytest.mark.parametrize(
    ("backend", "number"),
    [
        ("sqlite", signal.SIGINT),
        ("sqlite", signal.SIGTERM),
        ("sqlite", signal.SIGHUP),
        ("postgresql", signal.SIGTERM),
    ],
    indirect=["backend"],
)
@pytest.mark.usefixtures("shelves")
def test_a_request_in_flight_is_answered_and_kept(database_url, start_server, sql, writers_held_up, number):
    """After the signal new connections are refused soon; the request that waits is answered; exit 0."""
    server = start_server("--grace-s", "0.2", url=database_url)

    with writers_held_up() as release, in_flight(server) as connection:
        server.send_signal(number)
        assert wait_until(server.refuses_connections, timeout_s=3)
        assert sql("SELECT name FROM shelves") == []
        release()
        reply = receive(connection)

    assert reply.status == 201
    assert server.wait() == 0
    assert sql("SELECT name FROM shelves") == [{"name": "Store"}]
    assert "stopping: 1 requests in flight" in server.err


@pytest.mark.usefixtures("shelves")
def test_a_terminal_that_is_closed_hangs_up_more_than_once(database_url, start_server, writers_held_up):
    """The kernel sends SIGHUP, and the shell too; the second does not cut off what the first waits for."""
    server = start_server("--grace-s", "0", url=database_url)

    with writers_held_up() as release, in_flight(server) as connection:
        server.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "SIGHUP received" in server.err)
        time.sleep(0.4)
        server.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        release()
        reply = receive(connection)

    assert reply.status == 201
    assert server.wait() == 0


@pytest.mark.slow
def test_a_hangup_is_nothing_to_a_server_under_nohup(start_server):
    """What is started with SIGHUP ignored is to outlive its terminal."""

    def ignore_hangups() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    server = start_server("--grace-s", "0", url="sqlite://", popen={"preexec_fn": ignore_hangups})

    server.send_signal(signal.SIGHUP)
    time.sleep(0.5)

    assert server.request("GET", "/livez").status == 200
    assert "SIGHUP" not in server.err
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_while_the_grace_lasts_readiness_is_gone_and_the_service_is_not(database_url, start_server):
    """/readyz is 503 at once, over old and new connections; everything else is served as before."""
    server = start_server("--grace-s", "1.5", url=database_url)
    with contextlib.closing(server.connect()) as kept, contextlib.closing(server.connect()) as waiting:
        assert exchange(kept, "GET", "/readyz").status == 200
        assert exchange(waiting, "GET", "/readyz").status == 200

        server.send_signal(signal.SIGTERM)
        assert wait_until(lambda: "SIGTERM received" in server.err)

        for reply in (exchange(kept, "GET", "/readyz"), server.request("GET", "/readyz")):
            assert reply.status == 503
            assert reply.body == {"status": "not ready", "reason": "draining: the service is shutting down"}
            assert reply.headers["Retry-After"]
        assert server.request("GET", "/livez").status == 200
        assert server.request("POST", "/shelves", {"name": "Store"}).status == 201
        assert exchange(waiting, "POST", "/shelves", {"name": "Shop"}).status == 201
    assert server.wait() == 0


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_request_that_comes_too_late_is_refused(database_url, start_server, sql, writers_held_up):
    """One whose head took its time may be complete only when the end has begun: it does nothing."""
    server = start_server("--grace-s", "0", url=database_url)

    with (
        writers_held_up() as release,
        contextlib.closing(server.connect()) as slow,
        in_flight(server) as connection,
    ):
        slow.sock.sendall(b"POST /shelves HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n")
        assert server.request("GET", "/livez").status == 200
        server.send_signal(signal.SIGTERM)
        assert wait_until(server.refuses_connections, timeout_s=3)
        time.sleep(2)  # what has come by the end of the grace is waited for, for a second

        slow.sock.sendall(b'\r\n{"name": "Late"}')
        response = http.client.HTTPResponse(slow.sock)
        response.begin()
        late = json.loads(response.read())
        release()
        assert receive(connection).status == 201

    assert late["status"] == 503
    assert late["outcome"] == "not_applied"
    assert response.getheader("Retry-After")
    assert response.getheader("Connection") == "close"
    assert server.wait() == 0
    assert sql("SELECT name FROM shelves") == [{"name": "Store"}]


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_connection_at_rest_is_closed_and_its_client_goes_elsewhere(
    database_url, start_server, writers_held_up
):
    """While another's request is still being answered: over it the next request would be refused."""
    server = start_server("--grace-s", "0", url=database_url)

    with (
        writers_held_up() as release,
        contextlib.closing(server.connect()) as kept,
        in_flight(server) as connection,
    ):
        assert exchange(kept, "GET", "/shelves").status == 200
        server.send_signal(signal.SIGTERM)

        assert kept.sock.recv(1) == b""

        release()
        reply = receive(connection)
    assert reply.status == 201
    assert reply.headers["Connection"] == "close"
    assert server.wait() == 0


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_clients_that_never_pause_do_not_keep_the_server_from_ending(database_url, start_server):
    """Each connection's next answer is its last, and says `Connection: close`: the client goes elsewhere."""
    server = start_server("--grace-s", "0.2", "--drain-s", "15", url=database_url)

    def hammer() -> list[str | None]:
        said: list[str | None] = []
        with contextlib.closing(server.connect()) as connection, contextlib.suppress(OSError):
            while connection.sock is not None:  # http.client drops it where the answer says so
                said.append(exchange(connection, "GET", "/shelves").headers.get("Connection"))
        return said

    with ThreadPoolExecutor(8) as threads:
        hammering = [threads.submit(hammer) for _ in range(8)]
        assert wait_until(lambda: server.err.count("200 GET /shelves") > 16)
        server.send_signal(signal.SIGTERM)
        took_s = seconds(lambda: server.wait())
        said = [future.result() for future in hammering]

    assert server.wait() == 0
    assert took_s < 15
    assert all(each[-1] == "close" and not any(each[:-1]) for each in said)


def test_an_idle_connection_does_not_keep_the_server_from_ending(start_server):
    """Browsers and proxies hold connections open for minutes."""
    server = start_server("--grace-s", "0", url="sqlite://")
    with contextlib.closing(server.connect()) as idle, contextlib.closing(server.connect()):
        assert exchange(idle, "GET", "/readyz").status == 200

        server.send_signal(signal.SIGTERM)

        assert server.wait() == 0


@pytest.mark.usefixtures("shelves")
def test_a_request_that_outlasts_the_drain_is_cut_off_and_undone(
    database_url, start_server, sql, writers_held_up
):
    """Past drain_s the statement is cancelled: exit 1, and nothing of the request is kept, then or later."""
    server = start_server("--grace-s", "0", "--drain-s", "0.5", url=database_url)

    with writers_held_up() as release, in_flight(server) as connection:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert receive(connection).status >= 500
        assert server.wait() == 1
        release()

    assert sql("SELECT name FROM shelves") == []
    assert "1 requests were not answered within 0.5 s; they are cut off and rolled back" in server.err


@pytest.mark.slow
@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_function_that_hangs_for_ever_does_not_keep_the_process(database_url, start_server, tmp_path):
    """Python itself would wait for its thread, and systemd for the process: it ends, and says what hung."""
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\n"
        f"import {lifecycle.__name__} as lifecycle, tests.service.model\n"
        "def hang(session, **options):\n"
        "    threading.Event().wait()\n"
        "tests.service.model.list_shelves = hang\n"
        "lifecycle.CLOSE_S = 5.0\n"
    )
    server = start_server(
        *("--grace-s", "0", "--drain-s", "0.5"),
        url=database_url,
        environ={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        warm=False,
    )

    with contextlib.closing(server.connect()) as connection:
        send(connection, "GET", "/shelves")
        for _ in range(2):  # connections are taken in turn: what came later is answered, so this one is read
            assert server.request("GET", "/livez").status == 200
        server.send_signal(signal.SIGTERM)

        assert server.wait() == 1

    assert (
        "the process did not end within 5.5 s of its stop signal and is terminated; 1 threads hang"
        in server.err
    )
    assert "threading.Event().wait()" in server.err


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_a_second_signal_ends_it_at_once(database_url, start_server, sql, writers_held_up):
    """A second Ctrl-C does not wait for requests; nothing of theirs is kept."""
    server = start_server("--grace-s", "0", "--drain-s", "60", url=database_url)

    with writers_held_up() as release, in_flight(server):
        server.send_signal(signal.SIGINT)
        assert wait_until(server.refuses_connections, timeout_s=3)
        time.sleep(0.3)  # what comes sooner is the same Ctrl-C, told twice
        server.send_signal(signal.SIGINT)
        assert seconds(lambda: server.wait()) < 15
        release()

    assert server.wait() == 1
    assert sql("SELECT name FROM shelves") == []


@on_sqlite
@pytest.mark.usefixtures("shelves")
def test_one_ctrl_c_that_arrives_twice_is_one(database_url, start_server, sql, writers_held_up):
    """A wrapper passes the signal on to a process that the terminal has told already."""
    server = start_server("--grace-s", "0", url=database_url)

    with writers_held_up() as release, in_flight(server) as connection:
        server.send_signal(signal.SIGINT)
        server.send_signal(signal.SIGINT)
        assert wait_until(server.refuses_connections, timeout_s=3)
        release()
        assert receive(connection).status == 201

    assert server.wait() == 0


@pytest.mark.usefixtures("shelves")
def test_a_write_whose_client_has_left_is_waited_for(database_url, start_server, sql, writers_held_up):
    """The answer is not read any more, and the work is kept all the same."""
    server = start_server("--grace-s", "0", url=database_url)

    with writers_held_up() as release:
        with in_flight(server):
            pass
        server.send_signal(signal.SIGTERM)
        assert wait_until(server.refuses_connections, timeout_s=3)
        time.sleep(0.2)
        assert server.runs()
        release()

        assert server.wait() == 0
    assert sql("SELECT name FROM shelves") == [{"name": "Store"}]


@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_a_session_at_the_database_tells_its_process(database_url, start_server, sql):
    server = start_server("--grace-s", "0", url=database_url)
    assert server.request("GET", "/shelves").status == 200

    names = sql("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'onfinish%'")

    assert [row["application_name"] for row in names] == [f"onfinish {server.pid}"]


@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_the_log_says_in_the_drivers_words_why_the_database_cannot_be_reached(database_url, start_server):
    """An answer does not: it would show a host and a user to strangers."""
    server = start_server("--grace-s", "0", url=database_url.replace("onfinish:", "stranger:", 1))

    reply = server.request("GET", "/shelves")

    assert (reply.status, reply.body["detail"]) == (503, "the database cannot be reached")
    assert 'the database cannot be reached (connection to server at "127.0.0.1"' in server.err
    assert "stranger" in server.err


@on_postgresql
@pytest.mark.usefixtures("shelves")
def test_no_connection_is_left_on_the_database(database_url, start_server, postgres_cluster: PostgresCluster):
    """The connections are closed with a word, before the process ends."""
    before = len(postgres_cluster.log_text())
    server = start_server("--grace-s", "0", url=database_url)
    assert server.request("POST", "/shelves", {"name": "Store"}).status == 201

    server.send_signal(signal.SIGTERM)

    assert server.wait() == 0
    assert "unexpected EOF" not in postgres_cluster.log_text()[before:]
