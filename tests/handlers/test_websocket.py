"""WebSockets whose messages own a session each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from db import Database
from db.errors import Conflict, UsageError
from handlers import SessionWebSocketHandler, log_request
from tests.fixtures.process import StartServer, receive, send
from tests.fixtures.waiting import wait_until
from tests.handlers.notes import add_note

pytestmark = pytest.mark.gen_test

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

PATIENCE_S = 20


@contextlib.asynccontextmanager
async def connected(port: int, path: str = "/") -> AsyncIterator[WebSocketClientConnection]:
    """A client's side of a socket."""
    socket = await websocket_connect(f"ws://127.0.0.1:{port}{path}")
    try:
        yield socket
    finally:
        socket.close()


async def read(socket: WebSocketClientConnection) -> Any:
    """The next message, decoded; None when the server has closed."""
    message = await asyncio.wait_for(asyncio.ensure_future(socket.read_message()), PATIENCE_S)
    return None if message is None else json.loads(message)


async def ask(socket: WebSocketClientConnection, message: str) -> Any:
    """Send a message and read the next."""
    await socket.write_message(message)
    return await read(socket)


def insert(session: Any, word: str) -> None:
    """One row; a word that is there already is refused."""
    session.execute(text("INSERT INTO words (word) VALUES (:word)"), {"word": word})


class Handler(SessionWebSocketHandler):
    """Writes each message down and says so."""

    async def handle_message(self, message: str | bytes) -> None:
        await self.run(insert, self.session, str(message))
        self.write_message({"done": str(message)})


@pytest.fixture
def words(sql):
    """What is in the table, as another connection sees it."""
    sql("CREATE TABLE words (word VARCHAR(100) PRIMARY KEY)")
    return lambda: sorted(row["word"] for row in sql("SELECT word FROM words"))


@pytest.fixture
def port_of(serve, database, words):
    """``port_of(Handler)`` serves a handler on the test's database."""

    def start(handler: type[WebSocketHandler], **settings: Any) -> int:
        settings.setdefault("log_function", log_request)
        client = serve(Application([("/", handler)], database=database, **settings))
        port: int = client.port
        return port

    return start


async def test_each_message_is_a_transaction_and_its_reply_follows_its_commit(port_of, words):
    """A reader of the reply finds the row."""
    async with connected(port_of(Handler)) as socket:
        for word in ("one", "two", "three"):
            assert await ask(socket, word) == {"done": word}
            assert word in words()


@pytest.mark.every_driver
@pytest.mark.parametrize("where", ["in run", "in the handler", "before the commit", "a cancelled wait"])
async def test_what_is_raised_that_is_no_exception_is_answered_and_the_socket_stays(
    where: str, port_of, words, expect_log
):
    """As PyO3 raises it where Rust code panics. A wait of its own that was cancelled is a fault like that."""

    class Panic(BaseException):
        pass

    def panic(*args: object) -> None:
        raise Panic

    class Panicking(Handler):
        async def handle_message(self, message: str | bytes) -> None:
            await super().handle_message(message)
            if message != "panic":
                return
            if where == "in run":
                await self.run(panic)
            elif where == "before the commit":
                event.listen(self.session, "before_commit", panic)
            elif where == "in the handler":
                panic()
            else:
                waiting = asyncio.ensure_future(asyncio.sleep(5))
                asyncio.get_running_loop().call_soon(waiting.cancel)
                await waiting

    async with connected(port_of(Panicking)) as socket:
        with expect_log("onfinish.handlers", r"raised (Panic|CancelledError)"):
            problem = await ask(socket, "panic")

        assert (problem["status"], problem["outcome"]) == (500, "not_applied")
        assert await ask(socket, "one") == {"done": "one"}
    assert words() == ["one"]


async def test_a_refusal_undoes_its_message_alone_and_the_socket_stays(port_of, words):
    """The client is told as over HTTP, by a problem object; what it wrote before stays."""
    async with connected(port_of(Handler)) as socket:
        await ask(socket, "one")

        problem = await ask(socket, "one")

        assert problem["status"] == 409
        assert problem["outcome"] == "not_applied"
        assert problem["instance"] == "/"
        assert problem["request_id"]
        assert await ask(socket, "two") == {"done": "two"}
    assert words() == ["one", "two"]


async def test_a_fault_undoes_its_message_and_says_nothing_of_itself(port_of, words, expect_log):
    """What the handler raises after it has written, and replied, is a 500; the log has the stack."""

    class Faulty(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(insert, self.session, str(message))
            self.write_message("done")
            raise LookupError("secret")

    async with connected(port_of(Faulty)) as socket:
        with expect_log("onfinish.handlers", "message 1 Faulty .*LookupError: secret"):
            problem = await ask(socket, "one")

    assert problem["status"] == 500
    assert "secret" not in json.dumps(problem)
    assert words() == []


async def test_a_commit_that_fails_drops_the_replies(port_of, sql, words):
    """A constraint that speaks only at COMMIT: the held reply never leaves, the problem does."""
    sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    sql("CREATE TABLE children (of_id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")

    class Orphanage(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(self.session.execute, text("INSERT INTO children VALUES (7)"))
            self.write_message({"done": True})

    async with connected(port_of(Orphanage)) as socket:
        problem = await ask(socket, "one")

    assert problem["status"] == 409
    assert sql("SELECT count(*) AS n FROM children") == [{"n": 0}]


async def test_an_open_socket_holds_nothing(port_of, database: Database, words):
    """Thirty sockets on a pool of ten, or of one: each works, and between messages none has a connection."""
    port = port_of(Handler)
    pool: Any = database.writer.engine.pool
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(connected(port)) for _ in range(30)]
        replies = await asyncio.gather(*(ask(socket, str(n)) for n, socket in enumerate(sockets)))

        assert replies == [{"done": str(n)} for n in range(30)]
        assert await asyncio.to_thread(wait_until, lambda: not database.writer.limiter.taken)
        assert pool.checkedout() == 0
        assert not database.units
        assert await ask(sockets[17], "again") == {"done": "again"}
    assert len(words()) == 31


async def test_messages_of_one_socket_are_handled_one_after_the_other(port_of, words):
    """However fast they come; those of other sockets do not wait for them."""
    under_way: list[str] = []
    overlaps: list[str] = []

    class Slow(Handler):
        async def handle_message(self, message: str | bytes) -> None:
            overlaps.extend(under_way)
            under_way.append(str(message))
            await asyncio.sleep(0.05)
            await super().handle_message(message)
            under_way.remove(str(message))

    async with connected(port_of(Slow)) as socket:
        for number in range(5):
            await socket.write_message(str(number))
        replies = [await read(socket) for _ in range(5)]

    assert replies == [{"done": str(number)} for number in range(5)]
    assert overlaps == []


@on_postgresql
async def test_a_conflict_runs_the_message_again(port_of, words, expect_log):
    """The first attempt's reply is dropped with its work: the client reads one, and there is one row."""

    class Conflicting(SessionWebSocketHandler):
        attempts = 0

        async def handle_message(self, message: str | bytes) -> None:
            self.attempts += 1
            await self.run(insert, self.session, str(message))
            self.write_message({"attempt": self.attempts})
            if self.attempts < 3:
                await self.run(self.session.execute, text(SERIALIZATION_FAILURE))

    async with connected(port_of(Conflicting)) as socket:
        with expect_log("onfinish.handlers", "message 1 Conflicting .* retrying", level=20) as again:
            assert await ask(socket, "one") == {"attempt": 3}
        assert await ask(socket, "two") == {"attempt": 4}

    assert len(again) == 2
    assert words() == ["one", "two"]


SERIALIZATION_FAILURE = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$"


@on_postgresql
async def test_a_conflict_that_does_not_end_is_told(port_of, words, expect_log):
    """After three attempts, or after one where the handler says so."""

    attempts: list[str] = []

    class Conflicting(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            attempts.append(str(message))
            await self.run(self.session.execute, text(SERIALIZATION_FAILURE))

    class Once(Conflicting):
        retry = False

    for handler in (Conflicting, Once):
        async with connected(port_of(handler)) as socket:
            with expect_log("onfinish.handlers", "503 message"):
                assert (await ask(socket, handler.__name__))["status"] == 503

    assert attempts == ["Conflicting"] * 3 + ["Once"]


@pytest.mark.parametrize("waits_for", ["nothing", "the database"])
async def test_a_message_has_a_deadline_of_its_own(waits_for, port_of, words, sql, backend, expect_log):
    """Past it nothing is kept and the client is told; the next message has all its time."""

    class Hurried(SessionWebSocketHandler):
        timeout_s = 0.5

        async def handle_message(self, message: str | bytes) -> None:
            await self.run(insert, self.session, str(message))
            if message == "slow":
                if waits_for == "nothing":
                    await asyncio.sleep(60)
                await self.run(self.session.execute, text(SLEEP[backend]))
            self.write_message({"done": message})

    async with connected(port_of(Hurried)) as socket:
        with expect_log("onfinish.handlers", "504 message"):
            problem = await ask(socket, "slow")
        assert problem["status"] == 504
        assert problem["outcome"] == "not_applied"
        assert await ask(socket, "quick") == {"done": "quick"}
    assert words() == ["quick"]


@pytest.mark.parametrize("backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True)
async def test_a_commit_that_does_not_answer_in_time_is_not_told_as_undone(
    serve, database: Database, notes, expect_log
):
    """The deadline cuts its connection; the database may commit all the same, as it does here."""

    class Hurried(SessionWebSocketHandler):
        timeout_s = 0.5

        async def handle_message(self, message: str | bytes) -> None:
            await self.run(add_note, self.session, text=str(message))
            self.write_message({"done": message})

    client = serve(Application([("/", Hurried)], database=database, log_function=log_request))
    async with connected(client.port) as socket:
        with (
            expect_log("onfinish.handlers", "message 1 Hurried"),
            expect_log("onfinish.db", "connection is cut|hangs|lost during COMMIT", required=False),
        ):
            problem = await ask(socket, "slow to commit")

        assert problem["outcome"] == "unknown"
        assert problem["status"] == 503
    assert wait_until(lambda: notes() == ["slow to commit"], timeout_s=5)


SLEEP = {
    "postgresql": "SELECT pg_sleep(60)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
}


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_client_that_leaves_during_its_message(cancels, port_of, database, words):
    """A write runs to its end and is kept; where the handler says so it is stopped, and nothing is kept."""
    begun, go_on, closed, ended = (asyncio.Event() for _ in range(4))

    class Left(SessionWebSocketHandler):
        cancel_on_disconnect = cancels

        async def handle_message(self, message: str | bytes) -> None:
            await self.run(insert, self.session, str(message))
            begun.set()
            await go_on.wait()
            await self.run(self.session.execute, text("SELECT 1"))
            self.write_message("done")

        def on_close(self) -> None:
            ended.set()

        def _on_stream_closed(self) -> None:
            super()._on_stream_closed()
            closed.set()

    socket = await websocket_connect(f"ws://127.0.0.1:{port_of(Left)}/")
    await socket.write_message("one")
    await begun.wait()
    socket.protocol.stream.close()  # type: ignore[union-attr]  # without a word
    await asyncio.wait_for(closed.wait(), PATIENCE_S)
    go_on.set()
    await asyncio.wait_for(ended.wait(), PATIENCE_S)
    socket.close()

    assert await asyncio.to_thread(wait_until, lambda: not database.writer.limiter.taken)
    assert words() == ([] if cancels else ["one"])


async def test_what_is_written_to_others_waits_for_the_commit_too(port_of, words):
    """A chat: a line that is refused is sent to no client, and one that is kept to every one, once."""
    room: list[SessionWebSocketHandler] = []

    class Chat(Handler):
        def open(self, *args: str, **kwargs: str) -> None:
            room.append(self)
            self.write_message({"hello": len(room)})  # no message is under way: it leaves at once

        async def handle_message(self, message: str | bytes) -> None:
            for each in room:
                each.write_message({"said": message})
            await self.run(insert, self.session, str(message))

    port = port_of(Chat)
    async with connected(port) as one, connected(port) as other:
        assert (await read(one), await read(other)) == ({"hello": 1}, {"hello": 2})
        assert await ask(one, "hi") == {"said": "hi"}
        assert (await ask(one, "hi"))["status"] == 409
        assert await ask(one, "ho") == {"said": "ho"}

        assert await read(other) == {"said": "hi"}
        assert await read(other) == {"said": "ho"}


async def test_a_close_waits_for_the_replies(port_of, words):
    """The reply, then the end; and where the message is undone the socket stays open."""

    class Closing(Handler):
        async def handle_message(self, message: str | bytes) -> None:
            self.close(4000, "enough")
            await super().handle_message(message)

    async with connected(port_of(Closing)) as socket:
        assert await ask(socket, "one") == {"done": "one"}
        assert await read(socket) is None
        assert (socket.close_code, socket.close_reason) == (4000, "enough")
    async with connected(port_of(Closing)) as socket:
        assert (await ask(socket, "one"))["status"] == 409
        assert await ask(socket, "two") == {"done": "two"}


async def test_functions_for_after_the_commit(port_of, words, expect_log):
    """Called when the work is kept, never otherwise; what one raises does no harm."""
    called: list[tuple[str, list[str]]] = []

    class Following(Handler):
        async def handle_message(self, message: str | bytes) -> None:
            self.on_commit(self.note, str(message))
            await super().handle_message(message)

        async def note(self, message: str) -> None:
            called.append((message, words()))
            raise RuntimeError("too late")

    async with connected(port_of(Following)) as socket:
        with expect_log("onfinish.handlers", "an on_commit function failed"):
            assert await ask(socket, "one") == {"done": "one"}
            assert (await ask(socket, "one"))["status"] == 409
        assert called == [("one", ["one"])]


@on_sqlite
async def test_a_plain_function_for_after_the_commit_may_not_write_to_the_socket(port_of, expect_log):
    """It runs in a thread, where what is written would not wake the loop: the log names the way out."""

    class Following(Handler):
        async def handle_message(self, message: str | bytes) -> None:
            if message == "one":
                self.on_commit(lambda: self.write_message({"announced": message}))
            await super().handle_message(message)

    async with connected(port_of(Following)) as socket:
        with expect_log("onfinish.handlers", r"write_message\(\) was called in a thread.*`async def`"):
            assert await ask(socket, "one") == {"done": "one"}
            assert await ask(socket, "two") == {"done": "two"}


@on_sqlite
async def test_a_reply_that_cannot_be_sent_is_known_before_the_commit(port_of, words, expect_log):
    """Not JSON: the message is undone, as with an answer over HTTP."""

    class Unsendable(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(insert, self.session, str(message))
            self.write_message({"what": object()})

    async with connected(port_of(Unsendable)) as socket:
        with expect_log("onfinish.handlers", "not JSON serializable"):
            assert (await ask(socket, "one"))["status"] == 500
    assert words() == []


@on_sqlite
async def test_a_read_only_socket_cannot_write(port_of, words, expect_log):
    """Refused by the database itself."""

    class Reading(Handler):
        read_only = True

    async with connected(port_of(Reading)) as socket:
        with expect_log("onfinish.handlers", "a write in a read-only unit of work"):
            assert (await ask(socket, "one"))["status"] == 500
    assert words() == []


@on_sqlite
async def test_there_is_no_session_between_messages(port_of, words):
    """A timer that uses it is told what to use in its place."""
    told: list[str] = []

    class Between(Handler):
        def open(self, *args: str, **kwargs: str) -> None:
            with pytest.raises(UsageError) as error:
                self.session  # noqa: B018
            told.append(str(error.value))

    async with connected(port_of(Between)) as socket:
        assert await ask(socket, "one") == {"done": "one"}
    assert "unit_of_work()" in told[0]


async def test_a_class_that_would_go_past_the_session_is_refused():
    """``on_message`` is what this class itself needs; it says what to write instead."""
    with pytest.raises(TypeError, match="handle_message"):
        type("Chat", (SessionWebSocketHandler,), {"on_message": lambda self, message: None})


@on_sqlite
async def test_a_page_of_another_origin_opens_no_socket(port_of, words, expect_log):
    """But for those that may write here."""
    from tornado.httpclient import HTTPClientError, HTTPRequest

    port = port_of(Handler, trusted_origins=frozenset({"https://app.example.org"}))

    def from_page(origin: str) -> HTTPRequest:
        return HTTPRequest(f"ws://127.0.0.1:{port}/", headers={"Origin": origin})

    with pytest.raises(HTTPClientError, match="403"):
        await websocket_connect(from_page("https://evil.example.org"))
    socket = await websocket_connect(from_page("https://app.example.org"))
    assert await ask(socket, "one") == {"done": "one"}
    socket.close()


# -- a server that stops


def with_handlers(folder: Path) -> dict[str, str]:
    """An environment in which the server has two more routes."""
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import asyncio
            import pathlib

            import server.app
            from handlers import ApiHandler, SessionWebSocketHandler
            from tests.service.model import create_shelf

            make_app = server.app.make_app

            class Shelves(SessionWebSocketHandler):
                async def handle_message(self, message):
                    await self.run(create_shelf, self.session, name=message)
                    self.write_message({{"done": message}})

            class Later(ApiHandler):
                async def post(self):
                    self.on_commit(self.later)
                    self.write_json("done")

                async def later(self):
                    await asyncio.sleep(float(self.get_query_argument("s")))
                    pathlib.Path({str(folder / "later")!r}).touch()

            def with_more(*arguments, **options):
                application = make_app(*arguments, **options)
                application.add_handlers(".*", [("/socket", Shelves), ("/later", Later)])
                return application

            server.app.make_app = with_more
        """)
    )
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": f"{folder}:{root}"}


@pytest.mark.usefixtures("shelves")
async def test_a_server_that_stops_closes_its_sockets(
    database_url, start_server: StartServer, sql, tmp_path, backend
):
    """With 1001, at once where it is idle; the message under way is answered and kept before."""
    server = start_server("--grace-s", "0", url=database_url, environ=with_handlers(tmp_path))
    lock = "BEGIN IMMEDIATE" if backend == "sqlite" else "BEGIN; LOCK TABLE shelves IN EXCLUSIVE MODE"
    with sql.connect() as connection, contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(lock)
        async with connected(server.port, "/socket") as idle, connected(server.port, "/socket") as busy:
            await busy.write_message("Store")
            await busy.write_message("after that")
            assert await asyncio.to_thread(
                wait_until, lambda: len(server.request("GET", "/stats").body["processes"][0]["units"]) == 1
            )
            server.send_signal(signal.SIGTERM)
            assert await read(idle) is None
            assert idle.close_code == 1001
            cursor.execute("ROLLBACK")

            assert await read(busy) == {"done": "Store"}
            assert await read(busy) is None
            assert busy.close_code == 1001

    assert await asyncio.to_thread(server.wait) == 0
    assert [row["name"] for row in sql("SELECT name FROM shelves")] == ["Store"]


@on_sqlite
@pytest.mark.parametrize(("takes_s", "status"), [(0.7, 0), pytest.param(60, 1, marks=pytest.mark.slow)])
async def test_a_server_that_stops_waits_for_what_follows_a_commit(
    takes_s, status, database_url, start_server: StartServer, tmp_path
):
    """The answer has left, the mail has not: it is waited for, but no longer than ``drain_s``."""
    environ = with_handlers(tmp_path)
    server = start_server("--grace-s", "0", "--drain-s", "2", url=database_url, environ=environ)
    with contextlib.closing(server.connect()) as client:
        send(client, "POST", f"/later?s={takes_s}")
        assert receive(client).status == 200
    server.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(server.wait) == status
    assert (tmp_path / "later").exists() is (status == 0)


# -- a message's transaction has the methods of a request's


async def test_a_message_that_commits_early_is_applied_whatever_follows(port_of, words):
    """Its connection is back while it goes on, and its error says what is kept."""

    class Early(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(insert, self.session, str(message))
            await self.commit()
            assert words() == ["one"]
            raise Conflict("too late")

    async with connected(port_of(Early)) as socket:
        problem = await ask(socket, "one")

    assert (problem["status"], problem["outcome"]) == (409, "applied")
    assert words() == ["one"]


async def test_a_function_before_a_messages_commit_is_its_last_work(port_of, words):
    """What it does is committed with the message, and what it refuses undoes both."""

    def last(session: Any, word: str) -> None:
        insert(session, f"last {word}")
        if word == "refused":
            raise Conflict("not like this")

    class Last(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            self.before_commit(last, word=str(message))
            await self.run(insert, self.session, str(message))
            self.write_message({"done": message})

    async with connected(port_of(Last)) as socket:
        assert await ask(socket, "one") == {"done": "one"}
        problem = await ask(socket, "refused")

    assert (problem["status"], problem["outcome"]) == (409, "not_applied")
    assert words() == ["last one", "one"]


async def test_work_in_a_new_transaction_survives_the_rollback_of_its_message(port_of, words):
    """And is committed before the message is answered."""

    class Audited(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            self.in_new_transaction(insert, word=f"audit of {message!s}")
            await self.run(insert, self.session, str(message))
            if message == "refused":
                raise Conflict("not like this")
            self.write_message({"done": message})

    async with connected(port_of(Audited)) as socket:
        assert await ask(socket, "one") == {"done": "one"}
        assert words() == ["audit of one", "one"]
        assert (await ask(socket, "refused"))["outcome"] == "not_applied"
        assert words() == ["audit of one", "audit of refused", "one"]


async def test_nothing_is_registered_once_a_message_is_decided(port_of, words):
    """A task that outlives its message gets an error, not silence."""
    late: list[Any] = []

    class Late(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            self.on_commit(self.register)
            self.write_message({"done": message})

        def register(self) -> None:
            for register in (self.before_commit, self.in_new_transaction):
                try:
                    register(insert, word="late")
                except UsageError as error:
                    late.append(error)
            answered.set()

    answered = asyncio.Event()
    async with connected(port_of(Late)) as socket:
        assert await ask(socket, "one") == {"done": "one"}
        await asyncio.wait_for(answered.wait(), PATIENCE_S)

    assert len(late) == 2
    assert words() == []


@pytest.mark.executor("threads")  # in a greenlet its sleep would stop the loop, and the handler with it
async def test_what_a_message_raised_beside_a_commit_that_fails_is_in_the_log(port_of, words, expect_log):
    """The COMMIT's error is what is answered; the other one would be nowhere."""

    def refuse(session: Any) -> None:
        time.sleep(0.3)
        raise Conflict("refused at its commit")

    class Handler(SessionWebSocketHandler):
        async def handle_message(self, message: str | bytes) -> None:
            await self.run(insert, self.session, str(message))
            self.before_commit(refuse)
            committing = asyncio.ensure_future(self.commit())
            await asyncio.sleep(0.05)
            committing.cancel()
            raise ZeroDivisionError("beside it")

    async with connected(port_of(Handler)) as socket:
        with expect_log("onfinish.handlers", "message 1 Handler .*ZeroDivisionError: beside it"):
            problem = await ask(socket, "one")

    assert (problem["status"], problem["outcome"]) == (409, "not_applied")
    assert words() == []
