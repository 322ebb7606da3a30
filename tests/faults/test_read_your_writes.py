"""Read your own writes: a replica that lags, and a failover that loses a write."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.routing import URLSpec
from tornado.web import Application
from tornado.websocket import websocket_connect

from conf import Settings, load_settings
from db import Database
from db.doctor import examine as checkup
from db.doctor.findings import Plan
from db.errors import Unavailable
from db.observer import Observer
from db.written import KEPT_S, WriteTokens, Written
from handlers import ApiHandler, SessionHandler
from handlers.json_api.body import Body
from handlers.openapi.operation import operation
from handlers.websocket import SessionWebSocketHandler
from server.app import make_app
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.pgbouncer import Bouncer
from tests.fixtures.postgres import PostgresCluster, free_port
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.fixtures.server import Answer, Client, Serve
from tests.fixtures.service import create_shelves
from tests.fixtures.standby import Standby, migrated, standby_of
from tests.fixtures.waiting import wait_until
from tests.service import model
from tests.service.handlers import routes

NAME = "service"
KEY = "k" * 32
DRIVERS = [
    "postgresql+psycopg2",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("greenlets", "postgresql+asyncpg", "postgresql+psycopg")
    ),
]
BOOK = {"title": "a book"}

pytestmark = [pytest.mark.gen_test(timeout=60)]


class ExportHandler(ApiHandler):
    """Streams the titles in one snapshot."""

    streams = True

    async def get(self) -> None:
        for book in await self.run(model.list_books, self.session, limit=1000):
            self.write(book.id + "\n")
            await self.flush()


class HurriedExportHandler(ApiHandler):
    """Streams a line before it has read anything."""

    streams = True

    async def get(self) -> None:
        self.write("begins\n")
        await self.flush()
        await self.run(model.list_books, self.session, limit=1)
        await self.flush()


class SnapshotHandler(ApiHandler):
    """A read in REPEATABLE READ, whose snapshot is taken by the look at the marker."""

    snapshot = True

    async def get(self, book_id: str) -> None:
        book = await self.run(model.get_book, self.session, book_id=book_id)
        self.write_json({"id": book.id})


class TaggedHandler(SessionHandler):
    """A shelf's name, with Tornado's ETag."""

    async def get(self, shelf_id: str) -> None:
        shelf = await self.run(model.get_shelf, self.session, shelf_id=int(shelf_id))
        self.write(shelf.name)


class WriteInReadHandler(ApiHandler):
    """A GET that tries to write."""

    async def get(self) -> None:
        await self.run(model.create_shelf, self.session, name="never")


class ReadingSocket(SessionWebSocketHandler):
    """A message asks for a book; "write …" has one written by what follows."""

    read_only = True

    async def handle_message(self, message: str | bytes) -> None:
        book_id = str(message).removeprefix("write ")
        if book_id != message:
            self.in_new_transaction(model.create_book, id=book_id, title="by a socket", pages=0, notes={})
            self.write_message({"written": book_id})
            return
        book = await self.run(model.get_book, self.session, book_id=book_id)
        self.write_message({"id": book.id, "lost": self.lost_write})


class RetriedSocket(SessionWebSocketHandler):
    """A message whose first attempt fails behind its read."""

    read_only = True
    retry_on = (KeyError,)
    attempts = 0

    async def handle_message(self, message: str | bytes) -> None:
        await self.run(model.list_books, self.session, limit=1)
        self.attempts += 1
        if self.attempts == 1:
            raise KeyError
        self.write_message({"attempts": self.attempts, "lost": self.lost_write})


class WritingSocket(SessionWebSocketHandler):
    """A message writes a book, and is answered with its token."""

    async def handle_message(self, message: str | bytes) -> None:
        await self.run(model.create_book, self.session, id=str(message), title="a", pages=0, notes={})

        async def tell() -> None:
            await self.write_message({"wrote": self.wrote})

        self.on_commit(tell)


class RedirectHandler(ApiHandler):
    """Does its work in a thread, and answers before its method is called."""

    executor = "threads"

    async def prepare(self) -> None:
        await super().prepare()
        if self.request.method == "POST":
            await self.run(model.create_shelf, self.session, name=f"of {time.time()}")
        else:
            await self.run(model.list_books, self.session, limit=1)
        self.redirect("/shelves", status=303)


class Title(Body):
    """What the handler below takes, and answers."""

    title: str


class DescribedHandler(ApiHandler):
    """Operations that the document has."""

    @operation(answer=Title)
    async def get(self) -> Title:
        """Read a title."""
        return Title(title="a")

    @operation(answer=Title, status=201)
    async def post(self, body: Title) -> Title:
        """Write a title."""
        return body


OWN_ROUTES = [
    URLSpec("/described", DescribedHandler),
    URLSpec("/export", ExportHandler),
    URLSpec("/hurried", HurriedExportHandler),
    URLSpec("/snapshots/([0-9a-f]{32})", SnapshotHandler),
    URLSpec("/tagged/([0-9]+)", TaggedHandler),
    URLSpec("/writes", WriteInReadHandler),
    URLSpec("/reading", ReadingSocket),
    URLSpec("/retried", RetriedSocket),
    URLSpec("/redirects", RedirectHandler),
    URLSpec("/writing", WritingSocket),
]


class Recorded(Observer):
    """How reads with a token ended, and how many writes were told to be lost."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def read_after(self, how: str) -> None:
        self.counts[how] += 1

    def write_lost(self) -> None:
        self.counts["lost"] += 1


def a_primary() -> Iterator[PostgresCluster]:
    """With a schema and the tables of `tests.service`."""
    with migrated(NAME, synchronous_commit="local") as primary:  # else the log stays in memory a while
        create_shelves(RawSql(primary.url_for(NAME)))
        yield primary


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresCluster]:
    """Whose replica may lag."""
    yield from a_primary()


@pytest.fixture(scope="module")
def standby(primary: PostgresCluster) -> Iterator[Standby]:
    """Its replica."""
    with standby_of(primary) as standby:
        yield standby


def ask(server: PostgresCluster, sql: str) -> Any:
    """The first column of a statement's first row; None where it has none."""
    with server.admin_connection() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        row = None if cursor.description is None else cursor.fetchone()
        return None if row is None else row[0]


def answers(port: int) -> bool:
    """Whether there is a listener."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cut_off(standby: Standby) -> None:
    """The replica receives nothing any more: paused, it would apply what it has before it takes over."""
    ask(standby, "ALTER SYSTEM SET primary_conninfo = ''")
    ask(standby, "SELECT pg_reload_conf()")
    assert wait_until(lambda: ask(standby, "SELECT count(*) FROM pg_stat_wal_receiver") == 0)


def catch_up(primary: PostgresCluster, standby: Standby) -> None:
    """Wait until the replica has applied all that the primary has."""
    position = ask(primary, "SELECT pg_current_wal_flush_lsn()")
    assert wait_until(lambda: ask(standby, f"SELECT pg_last_wal_replay_lsn() >= '{position}'"))


@pytest.fixture
def paused(primary: PostgresCluster, standby: Standby) -> Iterator[None]:
    """The replica applies nothing, as one that is far behind."""
    catch_up(primary, standby)
    ask(standby, "SELECT pg_wal_replay_pause()")
    assert wait_until(lambda: ask(standby, "SELECT pg_get_wal_replay_pause_state()") == "paused")
    yield
    ask(standby, "SELECT pg_wal_replay_resume()")


@pytest.fixture
def drivername() -> str:
    """The service's; a test may choose another."""
    return "postgresql+psycopg2"


@pytest.fixture
def further() -> dict[str, Any]:
    """Further settings; a test may have some."""
    return {}


@pytest.fixture
def settings(
    primary: PostgresCluster, standby: Standby, drivername: str, further: dict[str, Any]
) -> Settings:
    """Writes go to the primary, reads to the replica."""
    own = {"database.executor": "greenlets"} if drivername == "greenlets" else {}
    scheme = "postgresql+psycopg2" if drivername == "greenlets" else drivername
    hosts = [
        f"{scheme}://{one.user}:{one.password}@{one.host}:{one.port}/{NAME}" for one in (primary, standby)
    ]
    return load_settings(
        {
            "environment": "testing",
            "database.url": hosts[0],
            "database.reader_url": hosts[1],
            "database.pool_size": 2,
            "database.write_token_key": KEY,
            "database.read_after_wait_ms": 20,
            **own,
            **further,
        },
        environ={},
    )


@pytest.fixture
def recorded() -> Recorded:
    """What the service's observer was told."""
    return Recorded()


@pytest.fixture
def database(settings: Settings, recorded: Recorded, io_loop: IOLoop) -> Iterator[Database]:
    """The service's."""
    database = Database(settings.database, recorded)
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def app(settings: Settings, database: Database) -> Application:
    """`tests.service`, and the handlers above."""
    return make_app(settings, database, routes=[*routes(), *OWN_ROUTES])


@pytest.fixture
def client(app: Application, serve: Serve) -> Client:
    """A client of the service."""
    return serve(app)


async def write(client: Client) -> Answer:
    """Create a book."""
    answer = await client.post("/books", BOOK)
    assert answer.code == 201
    return answer


def after(*answers: Answer) -> dict[str, str]:
    """The header with the tokens of writes."""
    return {"Read-After": ", ".join(answer.headers["Wrote"] for answer in answers)}


def token_of_a_lost_write(database: Database) -> str:
    """Of one that no server has."""
    assert database.write_tokens is not None
    return database.write_tokens.token_of(Written("ab" * 16, 1, time.time()))


@pytest.mark.usefixtures("paused")
class TestAReplicaThatLags:
    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_a_read_with_the_token_sees_the_write_and_one_without_does_not(
        self, client: Client, recorded: Recorded
    ):
        """0 of 10 are stale with it, 10 of 10 without."""
        with_token, without = [], []
        for _ in range(10):
            written = await write(client)
            path = written.headers["Location"]
            without.append((await client.get(path)).code)
            with_token.append((await client.get(path, headers=after(written))).code)

        assert without == [404] * 10
        assert with_token == [200] * 10
        assert recorded.counts == {"primary": 10}

    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_lists_exports_and_snapshots_see_it_too(self, client: Client, drivername: str):
        written = await write(client)
        book_id = written.json()["id"]

        listed = await client.get("/books?limit=1000", headers=after(written))
        exported = await client.get("/export", headers=after(written))
        in_snapshot = await client.get(f"/snapshots/{book_id}", headers=after(written))
        stale = await client.get("/export")

        assert book_id in [book["id"] for book in listed.json()["items"]]
        assert book_id in exported.body.decode().split()
        assert in_snapshot.code == 200
        assert book_id not in stale.body.decode().split()

    async def test_head_is_answered_as_get_is(self, client: Client):
        written = await write(client)
        path = written.headers["Location"]

        answers = [await client.head(path, headers=each) for each in (after(written), {})]

        assert [each.code for each in answers] == [200, 404]

    async def test_tokens_may_come_in_several_headers(self, client: Client):
        """A proxy may fold them into one, or a client send one for each."""
        first, second = [await write(client) for _ in range(2)]
        lines = "".join(f"Read-After: {each.headers['Wrote']}\r\n" for each in (first, second))

        with socket.create_connection(("127.0.0.1", client.port)) as plain:
            plain.sendall(f"GET {first.headers['Location']} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
            answer = await asyncio.to_thread(plain.recv, 100)

        assert answer.startswith(b"HTTP/1.1 200 ")

    async def test_a_conditional_read_compares_with_what_was_written(self, client: Client):
        """The tag of the old representation is not current any more, though the replica thinks so."""
        shelf = await client.post("/shelves", {"name": "of a tag"})
        path = f"/tagged/{shelf.json()['id']}"
        old = (await client.get(path, headers=after(shelf))).headers["ETag"]
        changed = await client.patch(shelf.headers["Location"], {"name": "of another"})

        answer = await client.get(path, headers=after(changed) | {"If-None-Match": old})
        again = await client.get(path, headers=after(changed) | {"If-None-Match": answer.headers["ETag"]})

        assert (answer.code, answer.body) == (200, b"of another")
        assert again.code == 304

    async def test_all_tokens_of_a_list_are_waited_for(self, client: Client):
        first, second = await asyncio.gather(write(client), write(client))

        answers = [
            await client.get(each.headers["Location"], headers=after(first, second))
            for each in (first, second)
        ]

        assert [each.code for each in answers] == [200, 200]

    @pytest.mark.parametrize("drivername", DRIVERS)
    async def test_what_reads_on_the_primary_cannot_write_there(
        self, client: Client, expect_log: ExpectLog, primary: PostgresCluster
    ):
        written = await write(client)

        with expect_log("onfinish.handlers", "a write in a read-only"), expect_log("tornado.access", "500"):
            answer = await client.get("/writes", headers=after(written))

        assert answer.code == 500
        assert RawSql(primary.url_for(NAME))("SELECT * FROM shelves WHERE name = 'never'") == []
        assert (await write(client)).code == 201, "the writer's connection writes again"

    async def test_a_replica_that_catches_up_in_time_is_read_from(
        self, app: Application, serve: Serve, standby: Standby, recorded: Recorded, database: Database
    ):
        database.settings = database.settings.model_copy(update={"read_after_wait_ms": 5_000})
        client = serve(app)
        written = await write(client)

        reading = asyncio.ensure_future(client.get(written.headers["Location"], headers=after(written)))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(ask, standby, "SELECT pg_wal_replay_resume()")

        assert (await reading).code == 200
        assert recorded.counts == {"waited": 1}

    @pytest.mark.parametrize("further", [{"http.write_cookie_s": 60}])
    async def test_a_browser_sends_the_token_as_a_cookie(self, client: Client):
        written = await write(client)
        cookie = written.headers["Set-Cookie"]
        pair = cookie.partition(";")[0]

        answer = await client.get(written.headers["Location"], headers={"Cookie": pair})
        forged = await client.get(written.headers["Location"], headers={"Cookie": "onfinish_wrote=x"})

        assert cookie == f"{pair}; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"
        assert (answer.code, forged.code) == (200, 404)

    async def test_a_socket_carries_its_own_token_along(self, client: Client):
        """What follows from a message of a reading socket is there for its next message."""
        socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/reading")
        book_id = "a" * 32

        await socket.write_message(f"write {book_id}")
        assert await socket.read_message() == f'{{"written": "{book_id}"}}'
        await socket.write_message(book_id)

        assert await socket.read_message() == f'{{"id": "{book_id}", "lost": false}}'
        socket.close()

    async def test_a_socket_tells_the_token_of_what_a_message_has_written(self, client: Client):
        socket = await websocket_connect(f"ws://127.0.0.1:{client.port}/writing")

        await socket.write_message("b" * 32)
        told = json.loads(await socket.read_message() or "")
        socket.close()

        answer = await client.get(f"/books/{'b' * 32}", headers={"Read-After": told["wrote"]})
        assert answer.code == 200

    async def test_a_socket_tells_of_a_lost_write_where_its_message_has_failed(
        self, client: Client, database: Database
    ):
        """What was written is not there: its handler raises, and has no word with the client any more."""
        headers = {"Read-After": token_of_a_lost_write(database)}
        socket = await websocket_connect(
            HTTPRequest(f"ws://127.0.0.1:{client.port}/reading", headers=headers)
        )

        told = []
        for _ in range(2):
            await socket.write_message("c" * 32)
            told.append(json.loads(await socket.read_message() or ""))
        socket.close()

        assert [each["status"] for each in told] == [404, 404]
        assert [each.get("write_lost") for each in told] == [True, None]

    async def test_a_message_that_is_retried_tells_of_a_lost_write_too(
        self, client: Client, database: Database
    ):
        headers = {"Read-After": token_of_a_lost_write(database)}
        socket = await websocket_connect(
            HTTPRequest(f"ws://127.0.0.1:{client.port}/retried", headers=headers)
        )

        await socket.write_message("")
        told = json.loads(await socket.read_message() or "")
        socket.close()

        assert told == {"attempts": 2, "lost": True}

    async def test_a_handshake_with_a_header_that_is_no_list_of_tokens_is_refused(self, client: Client):
        request = HTTPRequest(f"ws://127.0.0.1:{client.port}/reading", headers={"Read-After": "x"})

        with pytest.raises(HTTPClientError) as refused:
            await websocket_connect(request)

        assert refused.value.code == 400

    async def test_a_repeated_request_has_a_token_of_its_own(self, client: Client):
        """Its client may have lost the first answer, and that one's token."""
        keyed = {"Idempotency-Key": "again"}
        first = await client.post("/books", BOOK, headers=keyed)
        again = await client.post("/books", BOOK, headers=keyed)

        answer = await client.get(first.headers["Location"], headers=after(again))

        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Wrote"] != first.headers["Wrote"]
        assert answer.code == 200
        assert (await client.get(first.headers["Location"], headers=after(first))).code == 200


async def test_a_replica_that_is_in_step_is_read_from(
    client: Client, recorded: Recorded, primary: PostgresCluster, standby: Standby
):
    written = await write(client)
    catch_up(primary, standby)

    answer = await client.get(written.headers["Location"], headers=after(written))

    assert (answer.code, recorded.counts) == (200, {"reader": 1})


@pytest.mark.parametrize("further", [{"database.reader_url": None}], ids=["none"])
async def test_without_a_replica_no_read_is_counted_as_one_of_a_replica(client: Client, recorded: Recorded):
    written = await write(client)

    answer = await client.get(written.headers["Location"], headers=after(written))

    assert (answer.code, recorded.counts) == (200, {"reader": 1})


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_only_a_primary_decides_that_a_write_is_lost(
    database: Database, settings: Settings, recorded: Recorded
):
    """A connection of the writer's may lead to one that follows another by now."""
    missing = Written("ab" * 16, 1, time.time())
    demoted = Database(settings.database.for_reader(), recorded)

    async with database.unit_of_work(read_only=True, read_after=[missing]) as unit:
        await unit.run(model.list_books, unit.session, limit=1)
    with pytest.raises(Unavailable):
        async with demoted.unit_of_work(read_only=True, read_after=[missing]) as unasked:
            await unasked.run(model.list_books, unasked.session, limit=1)
    await demoted.close()

    assert (unit.lost_write, unit.pool) == (True, "writer")
    assert not unasked.lost_write
    assert recorded.counts == {"primary": 1, "lost": 1}


async def test_a_token_of_long_ago_costs_no_look(database: Database, recorded: Recorded):
    """Its marker may be deleted by now."""
    old = Written("ab" * 16, 1, time.time() - KEPT_S - 60)

    async with database.unit_of_work(read_only=True, read_after=[old]) as unit:
        await unit.run(model.list_books, unit.session, limit=1)

    assert (unit.statements, unit.pool, recorded.counts) == (1, "reader", {})


async def test_the_deadline_holds_while_a_replica_is_waited_for(
    app: Application, serve: Serve, database: Database, expect_log: ExpectLog, standby: Standby
):
    """504, and the slot is free again."""
    database.settings = database.settings.model_copy(update={"read_after_wait_ms": 10_000})
    app.settings["request_timeout_s"] = 0.3
    token = token_of_a_lost_write(database)
    client = serve(app)

    # It may pass in a statement, which is logged.
    with expect_log("tornado.access", "504"), expect_log("onfinish.handlers", "504", required=False):
        answer = await client.get("/books", headers={"Read-After": token})

    assert answer.code == 504
    assert database.reader.limiter.taken == 0
    assert (await client.get("/books")).code == 200


async def test_a_client_that_leaves_while_a_replica_is_waited_for_ends_its_read(
    client: Client, database: Database, recorded: Recorded, standby: Standby
):
    """The slot is free again long before the wait would be over."""
    database.settings = database.settings.model_copy(update={"read_after_wait_ms": 10_000})
    token = token_of_a_lost_write(database)
    assert (await client.get("/books")).code == 200  # else its client may leave while it connects

    with socket.create_connection(("127.0.0.1", client.port)) as leaving:
        leaving.sendall(f"GET /books HTTP/1.1\r\nHost: x\r\nRead-After: {token}\r\n\r\n".encode())
        assert await asyncio.to_thread(wait_until, lambda: database.reader.limiter.taken == 1)

    assert await asyncio.to_thread(wait_until, lambda: not database.reader.limiter.taken, timeout_s=2)
    assert recorded.counts == {}


@pytest.mark.parametrize("drivername", DRIVERS)
async def test_an_answer_of_prepare_has_the_headers_as_well(client: Client, database: Database):
    written = await client.post("/redirects", {})
    seen = await client.get("/redirects", headers=after(written))
    lost = await client.get("/redirects", headers={"Read-After": token_of_a_lost_write(database)})

    assert [each.code for each in (written, seen, lost)] == [303] * 3
    assert [each.headers.get("Write-Lost") for each in (seen, lost)] == [None, "1"]


@pytest.mark.parametrize("further", [{"http.write_cookie_s": 60}], ids=["cookie"])
async def test_the_cookie_of_a_lost_write_is_taken_back_and_one_over_https_is_secure(
    app: Application, serve: Serve, database: Database
):
    client, https = serve(app, xheaders=True), {"X-Forwarded-Proto": "https"}
    cookie = f"onfinish_wrote={token_of_a_lost_write(database)}"

    written = await client.post("/books", BOOK, headers=https)
    lost = await client.get("/books", headers={"Cookie": cookie})
    streamed = await client.get("/export", headers={"Cookie": cookie})
    too_early = await client.get("/hurried", headers={"Cookie": cookie})

    assert written.headers["Set-Cookie"].endswith("; SameSite=Lax; Secure")
    for answer in (lost, streamed):
        assert answer.headers["Write-Lost"] == "1"
        assert answer.headers.get_list("Set-Cookie") == [
            "onfinish_wrote=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"
        ]
    assert (too_early.code, too_early.headers.get("Write-Lost")) == (200, None)


@pytest.mark.parametrize("further", [{"http.write_cookie_s": 60}], ids=["cookie"])
async def test_the_cookie_of_another_write_than_the_lost_one_stays(client: Client, database: Database):
    """The header is read in its place."""
    written = await write(client)
    cookie = written.headers["Set-Cookie"].partition(";")[0]
    lost = {"Read-After": token_of_a_lost_write(database)}

    answer = await client.get("/books", headers=lost | {"Cookie": cookie})

    assert answer.headers["Write-Lost"] == "1"
    assert answer.headers.get_list("Set-Cookie") == []


async def test_no_cache_tells_another_read_of_a_lost_write(client: Client, database: Database):
    """One that keeps an answer gives it to others; a 304 changes the headers of the one that it has."""
    lost = {"Read-After": token_of_a_lost_write(database)}
    shelf = await client.post("/shelves", {"name": "of a cache"})
    path = f"/tagged/{shelf.json()['id']}"
    tag = (await client.get(path, headers=after(shelf))).headers["ETag"]

    answers = [
        await client.get(path, headers=lost),
        await client.get(path, headers=lost | {"If-None-Match": tag}),
    ]

    assert [(each.code, each.headers["Write-Lost"]) for each in answers] == [(200, "1"), (304, "1")]
    assert [each.headers.get("Cache-Control") for each in answers] == ["no-store"] * 2


@pytest.mark.parametrize("further", [{}, {"database.write_token_key": None}], ids=["tokens", "none"])
def test_the_doctor_names_a_replica_without_tokens(settings: Settings):
    plan = Plan(processes=1, production=False, request_timeout_s=30)

    found = [each.message for each in checkup.examine(settings.database, plan) if each.subject == "tokens"]

    assert found == (
        []
        if settings.database.write_token_key is not None
        else ["a client may not read there what it has just written: no tokens"]
    )


@pytest.mark.parametrize("further", [{"database.write_token_key": None}])
async def test_without_a_key_there_are_no_tokens(client: Client):
    """Nor is the header read."""
    written = await write(client)
    read = await client.get("/books", headers={"Read-After": "x"})

    assert "Wrote" not in written.headers
    assert read.code == 200


async def test_the_document_has_the_headers(client: Client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    read, made = (paths["/described"][method] for method in ("get", "post"))

    named = [each["$ref"].rpartition("/")[2] for each in read["parameters"]]
    assert "Read-After" in named
    assert "Write-Lost" in read["responses"]["200"]["headers"]
    assert "Wrote" in made["responses"]["201"]["headers"]


async def test_only_what_was_committed_has_a_token(client: Client, expect_log: ExpectLog):
    """A read has none, nor a request that was refused, or has written nothing."""
    await client.post("/shelves", {"name": "once"})
    with expect_log("onfinish", ".", required=False):
        refused = await client.post("/shelves", {"name": "once"})
    read = await client.get("/shelves")

    assert refused.code == 409
    assert "Wrote" not in refused.headers
    assert "Wrote" not in read.headers


@pytest.mark.parametrize("given", ["x", "", ",", "A" * 56, "of another key", "one of several", "17 of them"])
async def test_a_header_that_is_no_list_of_our_tokens_is_a_problem_that_names_it(client: Client, given: str):
    written = await write(client)
    token = written.headers["Wrote"]
    if given == "of another key":
        given = WriteTokens("o" * 32).token_of(Written("ab" * 16, 1, 0.0))
    elif given == "one of several":
        given = f"{token}, x, {token}"
    elif given == "17 of them":
        given = ", ".join([token] * 17)

    answer = await client.get("/shelves", headers={"Read-After": given})

    assert answer.code == 400
    assert "Read-After" in answer.json()["detail"]


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


@pytest.mark.debian
class TestAFailoverBehindPgBouncer:
    """The connections of the service, which are PgBouncer's clients, outlive it."""

    @pytest.fixture
    def primary(self) -> Iterator[PostgresCluster]:
        yield from a_primary()

    @pytest.fixture
    def standby(self, primary: PostgresCluster) -> Iterator[Standby]:
        with standby_of(primary) as standby:
            yield standby

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
    """The replica takes over without what was written last. A cluster for each: it is gone afterwards."""

    @pytest.fixture
    def primary(self) -> Iterator[PostgresCluster]:
        yield from a_primary()

    @pytest.fixture
    def standby(self, primary: PostgresCluster) -> Iterator[Standby]:
        with standby_of(primary) as standby:
            yield standby

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
