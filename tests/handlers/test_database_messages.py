"""What the database says of an error: not in the log, and in development there and in the answer."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text as sql_text
from sqlalchemy.orm import Session
from tornado.web import HTTPError

from conf import LogSettings
from conf.logs import set_up_logs
from db import Database
from handlers import ApiHandler
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.notes import add_note

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

ROW = "jane@example.org"

SetUpLog = Callable[..., Callable[[], str]]


@pytest.fixture
def log() -> Iterator[SetUpLog]:
    """``read = log(database_messages=True)`` sets up the service's log; ``read()`` is what is in it."""
    root, stream = logging.getLogger(), io.StringIO()

    def set_up(*, database_messages: bool = False) -> Callable[[], str]:
        handlers.append(set_up_logs(LogSettings(database_messages=database_messages), stream=stream))
        return stream.getvalue

    handlers: list[logging.Handler] = []
    yield set_up
    for handler in handlers:
        root.removeHandler(handler)
    logging.captureWarnings(False)


def misspell(session: Session) -> None:
    session.execute(sql_text("SELECT txet FROM notes WHERE text = :text"), {"text": ROW})


async def test_no_row_is_in_the_log_of_work_that_follows_an_answer(
    mount: Mount, database: Database, notes: Notes, expect_log: ExpectLog, log: SetUpLog
):
    """An `afterwards`, an `on_commit`, and a task that was not awaited meet a constraint."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(misspell, self.session)

        async def post(self) -> None:
            await self.run(add_note, self.session, text=ROW)
            self.in_new_transaction(add_note, text=ROW)
            self.on_commit(self.add_another)
            self.on_commit(self.add_unawaited)

        async def add_another(self) -> None:
            async with database.unit_of_work() as unit:
                await unit.run(add_note, unit.session, text=ROW)

        async def add_unawaited(self) -> None:
            task = asyncio.ensure_future(self.add_another())
            await asyncio.wait([task])

    read = log()
    client = mount(Handler)
    with (
        expect_log("onfinish.db", "afterwards: failed"),
        expect_log("onfinish.handlers", "an on_commit function failed"),
        expect_log("asyncio", "never retrieved"),
    ):
        answer = await client.post("/")
        for _ in range(100):
            gc.collect()
            if "never retrieved" in read():
                break
            await asyncio.sleep(0.05)

    assert answer.code == 200
    told = read()
    assert told.count("in add_note\n") == 3
    assert "IntegrityError" in told or "UniqueViolation" in told
    assert ROW not in told
    assert "INSERT" not in told
    assert "DETAIL" not in told


async def test_a_fault_is_told_without_what_the_database_said_of_it(
    mount: Mount, notes: Notes, expect_log: ExpectLog, log: SetUpLog
):
    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(misspell, self.session)

    read = log()
    client = mount(Handler)
    with expect_log("onfinish.handlers", "NotInSchema"), expect_log("tornado.access", "^500 "):
        answer = await client.get("/")

    assert "debug" not in answer.json()
    assert "txet" not in read().replace('sql_text("SELECT txet FROM', "")  # but for the line of source
    assert "its message may hold data and is withheld" in read()


async def test_an_http_error_that_quotes_the_database_is_logged_without_what_it_said(
    mount: Mount, notes: Notes, expect_log: ExpectLog, log: SetUpLog
):
    """``raise HTTPError(500, str(error)) from error``: its message is for the log alone."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            try:
                await self.run(misspell, self.session)
            except Exception as error:
                raise HTTPError(500, f"lost: {error.__cause__}") from error

    read = log()
    client = mount(Handler)
    with expect_log("onfinish.handlers", "lost: "), expect_log("tornado.access", "^500 "):
        await client.get("/")

    assert "lost: " in read()
    assert "its message may hold data and is withheld" in read()
    assert "txet" not in read()


async def test_in_development_a_fault_tells_the_databases_message_the_statement_and_the_line(
    mount: Mount, notes: Notes, expect_log: ExpectLog, log: SetUpLog
):
    """In the log and in the answer. SQLAlchemy adds no parameters; psycopg2 has them in the statement."""

    class Handler(ApiHandler):
        async def get(self) -> None:
            await self.run(misspell, self.session)

    read = log(database_messages=True)
    client = mount(Handler, database_messages=True)
    with expect_log("onfinish.handlers", "NotInSchema"), expect_log("tornado.access", "^500 "):
        answer = await client.get("/")

    debug = answer.json()["debug"]
    assert "txet" in debug["error"]
    assert debug["statement"].startswith("SELECT txet FROM notes")
    assert f"{__file__}:{misspell.__code__.co_firstlineno + 1} in misspell" == debug["line"]
    assert debug["error"].partition("\n")[0] in read()
    assert "[SQL: SELECT txet FROM notes" in read()
    assert "in misspell\n" in read()
    assert "[parameters:" not in read()


async def test_in_development_a_fault_without_a_statement_tells_its_own_line(
    mount: Mount, expect_log: ExpectLog
):
    class Handler(ApiHandler):
        async def get(self) -> None:
            raise KeyError("nothing of the database's")

    client = mount(Handler, database_messages=True)
    with expect_log("onfinish.handlers", "KeyError"), expect_log("tornado.access", "^500 "):
        answer = await client.get("/")

    debug = answer.json()["debug"]
    assert debug["error"] == 'builtins.KeyError: "nothing of the database\'s"'
    assert debug["line"].startswith(f"{__file__}:")
    assert "statement" not in debug


async def test_in_development_too_a_refusal_tells_nothing_of_the_database(mount: Mount, notes: Notes):
    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text=ROW)

    client = mount(Handler, database_messages=True)
    await client.post("/")
    answer = await client.post("/")

    assert answer.code == 409
    assert "debug" not in answer.json()
