"""The transaction of a request is its unit of work's alone: another that ends it is refused, or told of."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from db import Database
from db.errors import RetryableConflict
from handlers import ApiHandler
from tests.fixtures.backends import ASYNC, DEFAULT, GREENLETS
from tests.fixtures.logs import ExpectLog
from tests.handlers.conftest import Mount, Notes
from tests.handlers.custody import lent
from tests.handlers.notes import add_note

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

Work = Callable[[Session], object]

ENDS = [
    "COMMIT",
    "commit;",
    "  -- done\n COMMIT",
    "/* done */ ROLLBACK",
    "END",
    "BEGIN",
]
OF_POSTGRESQL = [
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "ABORT",
    "START TRANSACTION",
    "PREPARE TRANSACTION 'x'",
    "SELECT 1; COMMIT; SELECT 2",
]
ON_POSTGRESQL = [name for name in DEFAULT + ASYNC + GREENLETS if name.startswith("postgresql")]
CASES = [(name, statement) for name in DEFAULT + ASYNC + GREENLETS for statement in ENDS]
CASES += [(name, statement) for name in ON_POSTGRESQL for statement in OF_POSTGRESQL]


def driver(session: Session) -> Any:
    """The connection of the driver, past SQLAlchemy."""
    return session.connection().connection.dbapi_connection


def by_driver(session: Session, *statements: str) -> None:
    cursor = driver(session).cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.close()


def posting(*work: Work) -> type[ApiHandler]:
    """A handler that adds the note "before", does the work in one function, and answers 201."""

    def do(session: Session) -> None:
        add_note(session, text="before")
        for each in work:
            each(session)

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(do, self.session)
            self.write_json({}, 201)

    return Handler


def after(session: Session) -> None:
    add_note(session, text="after")


def fail(session: Session) -> None:
    raise ValueError("on purpose")


@pytest.mark.parametrize(("backend", "statement"), CASES, indirect=["backend"])
async def test_a_statement_that_would_end_the_transaction_is_refused(
    statement: str, mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Before it is sent: so nothing of the request is kept, and the answer can say so."""
    client = mount(posting(lambda session: session.execute(text(statement)), after))

    with (
        expect_log("onfinish.handlers", r"SessionNotOwned: POST Handler: .*begin_nested.*self\.commit\(\)"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []


async def test_a_refusal_that_the_program_swallows_has_changed_nothing(mount: Mount, notes: Notes):
    def swallow(session: Session) -> None:
        with pytest.raises(Exception, match="ends or begins"):
            session.execute(text("ROLLBACK"))

    client = mount(posting(swallow, after))

    answer = await client.post("/")

    assert answer.code == 201
    assert notes() == ["before", "after"]


async def test_savepoints_as_text_are_allowed(mount: Mount, notes: Notes):
    """They end a part of the transaction that is the program's own."""

    def part(session: Session) -> None:
        session.execute(text("SAVEPOINT mine"))
        add_note(session, text="part")
        session.execute(text("ROLLBACK TO SAVEPOINT mine"))
        session.execute(text("RELEASE SAVEPOINT mine"))
        session.expunge_all()

    client = mount(posting(part, after))

    answer = await client.post("/")

    assert answer.code == 201
    assert notes() == ["before", "after"]


def first_of_the_connection(session: Session) -> None:
    session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


def of_the_connection(session: Session) -> None:
    session.connection().execution_options(isolation_level="AUTOCOMMIT")


def of_the_bind(session: Session) -> None:
    engine: Any = session.get_bind()
    bind = engine.execution_options(isolation_level="AUTOCOMMIT")
    statement = text("INSERT INTO notes (text) VALUES ('by another')")
    session.execute(statement, bind_arguments={"bind": bind})


def of_the_statement(session: Session) -> None:
    statement = text("INSERT INTO notes (text) VALUES ('by another')")
    session.execute(statement, execution_options={"isolation_level": "AUTOCOMMIT"})
    fail(session)


@pytest.mark.parametrize("work", [first_of_the_connection, of_the_connection, of_the_bind, of_the_statement])
async def test_autocommit_is_not_to_be_had(work: Work, mount: Mount, notes: Notes, expect_log: ExpectLog):
    """Of what is written in it nothing could be undone."""

    def do(session: Session) -> None:
        work(session)
        add_note(session, text="written")
        fail(session)

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(do, self.session)

    client = mount(Handler)
    word = "ValueError" if work is of_the_statement else "SessionNotOwned: POST Handler: "
    with expect_log("onfinish.handlers", word), expect_log("tornado.access", r"^500 POST / .* undone "):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []


@pytest.mark.parametrize("backend", ON_POSTGRESQL, indirect=True)
async def test_a_writer_may_have_another_isolation_level_for_its_transaction(mount: Mount, notes: Notes):

    def serializable(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        assert session.scalar(text("SHOW transaction_isolation")) == "serializable"
        after(session)

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(serializable, self.session)

    client = mount(Handler)

    answer = await client.post("/")

    assert answer.code == 200
    assert notes() == ["after"]


COMMITS: dict[str, Work] = {
    "commit": lambda session: driver(session).commit(),
    "text": lambda session: by_driver(session, "COMMIT"),
}


@pytest.mark.parametrize("rest", [[fail], [after], []], ids=["raises", "goes on", "ends"])
@pytest.mark.parametrize("commit", COMMITS)
async def test_what_the_driver_committed_is_not_called_undone_or_whole(
    commit: str,
    rest: list[Work],
    mount: Mount,
    notes: Notes,
    database: Database,
    expect_log: ExpectLog,
):
    """It has happened: the outcome is unknown, whatever the handler does next, and nothing follows it."""
    client = mount(posting(COMMITS[commit], *rest))

    with (
        expect_log("onfinish.handlers", r"TransactionEnded: POST Handler: .*begin_nested|ValueError"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == ["before"]
    assert lent(database) == {}


async def test_a_refusal_of_the_handlers_own_says_unknown_too(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="before")
            await self.run(lambda session: driver(session).commit(), self.session)
            self.set_status(404)
            self.finish({"outcome": "not_applied"})

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"TransactionEnded"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == ["before"]


@pytest.mark.parametrize("rest", [[after], []], ids=["goes on", "ends"])
async def test_what_the_driver_rolled_back_is_not_called_kept(
    rest: list[Work], mount: Mount, notes: Notes, expect_log: ExpectLog
):
    client = mount(posting(lambda session: driver(session).rollback(), *rest))

    with (
        expect_log("onfinish.handlers", r"TransactionEnded"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == []


async def test_a_request_whose_work_was_committed_does_not_run_again(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """A conflict after it would apply it twice."""

    def conflict(session: Session) -> None:
        raise RetryableConflict("deadlock")

    client = mount(posting(COMMITS["commit"], conflict))

    with (
        expect_log("onfinish.handlers", r"TransactionEnded"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == ["before"]


async def test_the_next_request_has_a_transaction_of_its_own(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Whatever was done to the connection before: autocommit switched on, say."""
    seen: list[int] = []

    class Handler(ApiHandler):
        async def post(self) -> None:
            seen.append(1)
            if len(seen) == 1:
                await self.run(add_note, self.session, text="before")
                await self.run(lambda session: driver(session).commit(), self.session)
            await self.run(add_note, self.session, text=f"written {len(seen)}")
            raise ValueError("on purpose")

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"TransactionEnded|ValueError"),
        expect_log("tornado.access", r"^500 POST / ", level=logging.INFO),
    ):
        first = await client.post("/")
        second = await client.post("/")

    assert (first.json()["outcome"], second.json()["outcome"]) == ("unknown", "not_applied")
    assert notes() == ["before"]


async def test_a_transaction_that_is_left_alone_is_no_ones_concern(mount: Mount, notes: Notes):
    """The driver's connection may be used: for COPY, say."""
    client = mount(posting(lambda session: by_driver(session, "SELECT 1"), after))

    answer = await client.post("/")

    assert answer.code == 201
    assert notes() == ["before", "after"]


async def test_texts_are_read_as_ever(mount: Mount, notes: Notes):
    """What only looks like such a statement is none."""

    def look(session: Session) -> None:
        session.execute(text("SELECT 'COMMIT'; "))
        session.execute(text('SELECT 1 AS "begin" -- ; COMMIT'))
        session.execute(text("SELECT '; COMMIT'"))

    client = mount(posting(look))

    answer = await client.post("/")

    assert answer.code == 201
    assert notes() == ["before"]


INSERT = "INSERT INTO notes (text) VALUES ('by the driver')"


@pytest.mark.parametrize("rest", [[fail], [after], []], ids=["raises", "goes on", "ends"])
@pytest.mark.parametrize("chain", ["COMMIT", "ROLLBACK"])
async def test_a_transaction_that_the_driver_began_anew_is_not_taken_for_the_requests(
    chain: str, rest: list[Work], mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """All of it past SQLAlchemy: one is open at the end, as it should be, and it is another."""
    client = mount(posting(lambda session: by_driver(session, chain, "BEGIN", INSERT), *rest))

    with (
        expect_log("onfinish.handlers", r"TransactionEnded: POST Handler: .*begin_nested|ValueError"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == (["before"] if chain == "COMMIT" else [])


async def test_all_of_it_may_be_the_drivers_and_is_told_of(mount: Mount, notes: Notes, expect_log: ExpectLog):
    """Where SQLAlchemy has not sent a statement, there was no transaction to be missed."""

    def work(session: Session) -> None:
        by_driver(session, INSERT)
        driver(session).commit()
        fail(session)

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(work, self.session)

    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"TransactionEnded|ValueError"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == ["by the driver"]


def duplicate(session: Session) -> None:
    add_note(session, text="before")


async def test_a_conflict_after_the_drivers_own_work_is_the_conflict(mount: Mount, notes: Notes):
    """The transaction has failed, and is the same one: nothing of it is kept, and that is certain."""
    client = mount(posting(lambda session: by_driver(session, INSERT), duplicate))

    answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (409, "not_applied")
    assert notes() == []


async def test_the_drivers_own_work_may_stand_in_a_savepoint(mount: Mount, notes: Notes):
    def nested(session: Session) -> None:
        with session.begin_nested():
            by_driver(session, INSERT)
        after(session)

    client = mount(posting(nested))

    answer = await client.post("/")

    assert answer.code == 201
    assert notes() == ["before", "by the driver", "after"]


BY_SQLALCHEMY: dict[str, Work] = {
    "its connection": lambda session: session.connection().commit(),
    "its class": Session.commit,
    "its transaction": lambda session: session.get_transaction().commit(),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("rest", [[fail], []], ids=["raises", "ends"])
@pytest.mark.parametrize("commit", BY_SQLALCHEMY)
@pytest.mark.parametrize("where", ["at the end", "early", "a hook"])
async def test_a_function_before_the_commit_cannot_commit_either(
    where: str, commit: str, rest: list[Work], mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """The unit of work is being settled then, and is not at its COMMIT yet: nothing is kept."""

    class Handler(ApiHandler):
        async def post(self) -> None:
            await self.run(add_note, self.session, text="before")
            for work in (BY_SQLALCHEMY[commit], *rest):
                if where == "a hook":
                    event.listen(self.session, "before_commit", work)
                else:
                    self.before_commit(work)
            if where == "early":
                await self.commit()
            self.write_json({}, 201)

    client = mount(Handler)
    with (
        expect_log(
            "onfinish.handlers", r"SessionNotOwned: POST Handler: .*tried to commit|IllegalStateChangeError"
        ),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []


LEAVES: dict[str, Work] = {
    "its transaction": lambda session: session.get_transaction().close(invalidate=True),  # type: ignore[union-attr]
    "its class": Session.invalidate,
    "its connection": lambda session: session.connection().invalidate(),
}


@pytest.mark.parametrize("rest", [[after], []], ids=["goes on", "ends"])
@pytest.mark.parametrize("leave", LEAVES)
async def test_what_went_with_its_connection_is_not_called_kept(
    leave: str, rest: list[Work], mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Another connection has another transaction: nothing is kept without what came before."""

    def swallow(session: Session) -> None:
        LEAVES[leave](session)
        session.expunge_all()
        with contextlib.suppress(Exception):
            for work in rest:
                work(session)

    client = mount(posting(swallow))
    with (
        expect_log("onfinish.handlers", r"Transaction(Aborted|Ended): POST Handler"),
        expect_log("tornado.access", r"^500 POST / .* undone "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert notes() == []


async def test_what_was_committed_before_its_connection_was_left_is_not_called_undone(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    client = mount(posting(COMMITS["commit"], Session.invalidate))
    with (
        expect_log("onfinish.handlers", r"TransactionEnded: POST Handler"),
        expect_log("tornado.access", r"^500 POST / .* unknown "),
    ):
        answer = await client.post("/")

    assert (answer.code, answer.json()["outcome"]) == (500, "unknown")
    assert notes() == ["before"]
