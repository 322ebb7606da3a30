"""Constraints that refuse a row: the client's doing or the program's, and what the log has of it."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.base import refusals
from handlers import ApiHandler
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Answer
from tests.handlers.conftest import Mount, Notes

pytestmark = [pytest.mark.gen_test, pytest.mark.every_driver]

SECRET = 7_355_608
"""A value that no log may have."""

POSTGRES = pytest.mark.parametrize(
    "backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
)
SQLITE = pytest.mark.parametrize("backend", ["sqlite", "sqlite+aiosqlite"], indirect=True)


class Handler(ApiHandler):
    """Runs the statement that it is sent."""

    async def post(self) -> None:
        def work(session: Session) -> None:
            session.execute(text(self.request.body.decode()), {"secret": SECRET})

        await self.run(work, self.session)
        self.set_status(201)


@pytest.fixture
def rules(notes: Notes, sql: RawSql) -> None:
    """A table with a rule of each kind, and two rows."""
    sql("CREATE TABLE parents (id integer PRIMARY KEY)")
    sql(
        "CREATE TABLE rules (id integer PRIMARY KEY, n integer NOT NULL, u integer, parent_id integer,"
        " CONSTRAINT uq_rules_u UNIQUE (u), CONSTRAINT ck_rules_n CHECK (n < 1000),"
        " CONSTRAINT fk_rules_parent FOREIGN KEY (parent_id) REFERENCES parents (id))"
    )
    sql(f"INSERT INTO rules VALUES (1, 1, {SECRET}, NULL)")


async def faulty(mount: Mount, expect_log: ExpectLog, statement: str) -> tuple[Answer, str]:
    """The answer to a statement that is a fault, and the log of it."""
    client = mount(Handler)
    with (
        expect_log("onfinish.handlers", r"^POST /.*ConstraintFailed") as records,
        expect_log("tornado.access", "^500"),
    ):
        answer = await client.post("/", statement.encode())
    return answer, "\n".join(record.getMessage() for record in records)


async def refused(mount: Mount, expect_log: ExpectLog, statement: str) -> tuple[Answer, str]:
    """The answer to a statement that is refused, and the one line of it in the log."""
    client = mount(Handler)
    with expect_log("onfinish.handlers", "^409 POST /", level=logging.INFO) as records:
        answer = await client.post("/", statement.encode())
    [record] = records
    assert "\n" not in record.getMessage()
    return answer, record.getMessage()


@pytest.mark.usefixtures("rules")
async def test_a_null_where_there_must_be_a_value_is_a_fault_that_the_log_names(
    mount: Mount, expect_log: ExpectLog
):
    """The client can do nothing about it, and is told nothing; the log has table and column, and no data."""
    statement = "INSERT INTO rules (id, n, u) VALUES (2, NULL, :secret)"

    answer, logged = await faulty(mount, expect_log, statement)

    assert (answer.code, answer.json()["outcome"]) == (500, "not_applied")
    assert "rules" not in answer.body.decode()
    assert "NOT NULL rules.n" in logged
    assert str(SECRET) not in logged
    assert "INSERT" not in logged


@pytest.mark.usefixtures("rules")
async def test_a_column_that_was_left_out_is_the_same_fault(mount: Mount, expect_log: ExpectLog):
    answer, logged = await faulty(mount, expect_log, "INSERT INTO rules (id, u) VALUES (2, :secret - 1)")

    assert answer.code == 500
    assert "NOT NULL rules.n" in logged


@pytest.mark.usefixtures("rules")
async def test_a_check_without_a_sentence_is_a_fault_that_the_log_names(mount: Mount, expect_log: ExpectLog):
    answer, logged = await faulty(mount, expect_log, "INSERT INTO rules (id, n) VALUES (2, :secret)")

    assert answer.code == 500
    assert "ck_rules_n" not in answer.body.decode()
    assert "ck_rules_n" in logged
    assert "rules:" in logged
    assert str(SECRET) not in logged


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("NOT NULL rules.n", "UPDATE rules SET n = NULL WHERE u = :secret"),
        ("ck_rules_n", "UPDATE rules SET n = 5000 WHERE u = :secret"),
    ],
)
async def test_where_a_sentence_is_written_it_is_the_clients_doing(
    mount: Mount, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch, name: str, statement: str
):
    monkeypatch.setitem(refusals, name, "n has to be small")

    answer, logged = await refused(mount, expect_log, statement)

    assert (answer.code, answer.json()["detail"]) == (409, "n has to be small")
    assert name in logged


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("names", "statement"),
    [
        (("uq_rules_u", "rules.u"), "INSERT INTO rules (id, n, u) VALUES (2, 1, :secret)"),
        (("pk_rules", "rules_pkey", "rules.id"), "INSERT INTO rules (id, n, u) VALUES (1, 1, :secret + 1)"),
        # SQLite names no foreign key: there it is the table of the statement.
        (("fk_rules_parent", "rules"), "UPDATE rules SET parent_id = :secret"),
    ],
)
async def test_a_unique_or_foreign_key_is_a_conflict_with_a_line_that_names_it(
    mount: Mount, expect_log: ExpectLog, names: tuple[str, ...], statement: str
):
    answer, logged = await refused(mount, expect_log, statement)

    assert answer.code == 409
    assert any(f"refused by {name} " in logged for name in names)
    assert str(SECRET) not in logged
    assert "rules" not in answer.json()["detail"]


@pytest.mark.usefixtures("rules")
async def test_a_unique_columns_sentence_is_not_said_of_its_null(
    mount: Mount, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch, sql: RawSql
):
    """SQLite names both after the column."""
    monkeypatch.setitem(refusals, "rules.n", "there is one with this n")

    answer, logged = await faulty(mount, expect_log, "INSERT INTO rules (id, n) VALUES (3, NULL)")

    assert answer.code == 500
    assert "NOT NULL rules.n" in logged


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("backend", ["sqlite", "sqlite+aiosqlite"], indirect=True)
async def test_a_triggers_words_are_not_taken_for_a_name(mount: Mount, expect_log: ExpectLog, sql: RawSql):
    """What RAISE says may hold data, and may look as if SQLite had said it."""
    sql(
        "CREATE TRIGGER no BEFORE UPDATE ON rules BEGIN"
        f" SELECT RAISE(ABORT, 'CHECK constraint failed: {SECRET}'); END"
    )

    answer, logged = await refused(mount, expect_log, "UPDATE rules SET n = 2")

    assert answer.code == 409
    assert str(SECRET) not in logged


@SQLITE
async def test_a_constraint_that_sqlite_checks_at_commit_is_logged_without_a_name(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """It names neither the key nor its table then; the kind is what is left."""
    statement = "INSERT INTO notes (text, parent_id) VALUES ('a child', :secret)"

    answer, logged = await refused(mount, expect_log, statement)

    assert answer.code == 409
    assert "SQLITE_CONSTRAINT_FOREIGNKEY" in logged
    assert notes() == []


@POSTGRES
@pytest.mark.parametrize(
    ("constraint", "statement"),
    [
        ("UNIQUE (n) DEFERRABLE INITIALLY DEFERRED", "INSERT INTO late (n) VALUES (:secret), (:secret)"),
        (
            "EXCLUDE (n WITH =) DEFERRABLE INITIALLY DEFERRED",
            "INSERT INTO late (n) VALUES (:secret), (:secret)",
        ),
        (
            "FOREIGN KEY (n) REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED",
            "INSERT INTO late (n) VALUES (:secret)",
        ),
        ("EXCLUDE (n WITH =)", "INSERT INTO late (n) VALUES (:secret), (:secret)"),
    ],
)
@pytest.mark.usefixtures("rules")
async def test_a_constraint_that_speaks_only_at_commit_is_named_too(
    mount: Mount, expect_log: ExpectLog, sql: RawSql, constraint: str, statement: str
):
    sql(f"CREATE TABLE late (n integer, CONSTRAINT late_rule {constraint})")

    answer, logged = await refused(mount, expect_log, statement)

    assert answer.code == 409
    assert "refused by late_rule " in logged
    assert str(SECRET) not in logged
    assert sql("SELECT * FROM late") == []


@POSTGRES
@pytest.mark.usefixtures("rules")
async def test_the_rule_of_a_domain_is_a_fault_that_the_log_names(
    mount: Mount, expect_log: ExpectLog, sql: RawSql
):
    sql("CREATE DOMAIN small AS integer CONSTRAINT is_small CHECK (VALUE < 1000)")
    sql("CREATE TABLE of_domain (n small)")

    answer, logged = await faulty(mount, expect_log, "INSERT INTO of_domain VALUES (:secret)")

    assert answer.code == 500
    assert "is_small" in logged
    assert "small:" in logged


@POSTGRES
async def test_what_a_trigger_raises_on_purpose_is_a_rule_of_the_data(
    mount: Mount, notes: Notes, expect_log: ExpectLog
):
    """Under the code of a CHECK, and with a name: it was written to be said, and names no table."""
    statement = "INSERT INTO notes (text, parent_id) VALUES ('a child', :secret)"

    answer, logged = await refused(mount, expect_log, statement)

    assert answer.code == 409
    assert "refused by ck_notes_parent " in logged
    assert str(SECRET) not in logged
    assert notes() == []
