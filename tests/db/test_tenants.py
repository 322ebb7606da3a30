"""Tenants of one database, each with a schema or a role of its own.

What `onfinish` writes of its own is found from there, and written, through every driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database, Outcome
from db.errors import StatementFailed
from db.health import first_look
from db.idempotency import Answer, Key, claim_key, keep_answer
from db.schema.migrate import head
from tests.documents import DOCS, blocks
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy, Proxy
from tests.server.test_check import look

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.parametrize(
        "backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
    ),
]

KEY, ANSWER = Key("POST", "/notes", "k"), Answer(201, {}, b"{}")


@pytest.fixture
def tenant(sql: RawSql) -> Iterator[str]:
    """A schema, a table in it, a role that may write that, and `web`, which may take the role on."""
    for statement in (
        "CREATE ROLE tenant",
        "CREATE ROLE web LOGIN PASSWORD 'web'",
        "GRANT tenant TO web",
        "CREATE SCHEMA tenant",
        "CREATE TABLE tenant.notes (words text)",
        "GRANT USAGE ON SCHEMA tenant TO tenant",
        "GRANT ALL ON tenant.notes TO tenant",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO web",
    ):
        sql(statement)
    yield "tenant"
    for statement in ("DROP OWNED BY tenant, web", "DROP SCHEMA tenant CASCADE", "DROP ROLE web, tenant"):
        sql(statement)


@pytest.fixture
def proxy(make_proxy: MakeProxy, postgres_cluster: PostgresCluster) -> Proxy:
    """What stands between `web` and the database."""
    return make_proxy(("127.0.0.1", postgres_cluster.port))


@pytest.fixture
def database_settings(database_url: str, tenant: str, proxy: Proxy) -> DatabaseSettings:
    """As `web`, which is no superuser."""
    url = make_url(database_url).set(username="web", password="web", port=proxy.port)
    return DatabaseSettings(url=url.render_as_string(hide_password=False), pool_size=1)


def in_schema(session: Session) -> None:
    session.execute(text("SET LOCAL search_path TO tenant"))
    session.execute(text("INSERT INTO notes VALUES ('a')"))


def as_role(session: Session) -> None:
    session.execute(text("SET LOCAL ROLE tenant"))
    session.execute(text("INSERT INTO tenant.notes VALUES ('a')"))


class OfTenant(Session):
    """Each of its transactions begins in the tenant's schema, as SQLAlchemy's own recipes have it."""


@event.listens_for(OfTenant, "after_begin")
def begin_in_schema(session: Session, transaction: object, connection: Connection) -> None:
    connection.execute(text("SET LOCAL search_path TO tenant"))


def write_there(session: Session) -> None:
    session.execute(text("INSERT INTO notes VALUES ('a')"))


def read_there(session: Session) -> int:
    return int(session.execute(text("SELECT count(*) FROM notes")).scalar_one())


async def test_a_write_is_found_by_its_token_where_transactions_begin_in_another_schema(
    database_settings: DatabaseSettings,
):
    """In a snapshot, and on the primary, where one that is missing is looked for."""
    given = database_settings.model_copy(update={"write_token_key": SecretStr("k" * 32)})
    database = Database(given, session_class=OfTenant)
    try:
        async with database.unit_of_work() as writing:
            await writing.run(write_there, writing.session)
        assert writing.written is not None
        lost = writing.written._replace(row="ab" * 16)
        for written in (writing.written, lost):
            async with database.unit_of_work(read_only=True, snapshot=True, read_after=[written]) as reading:
                assert await reading.run(read_there, reading.session) == 1
            assert reading.lost_write is (written is lost)
    finally:
        await database.close()


async def grant_as_told(database: Database, sql: RawSql) -> str:
    """What the first look says is to be done, done to the letter."""
    (finding,) = await first_look(database, revision=head())
    for statement in finding.fix.split("; "):
        sql(statement)
    return finding.fix


async def keep(database: Database, *steps: Callable[[Session], object]) -> Outcome:
    unit = database.unit_of_work()
    for step in steps:
        await unit.run(step, unit.session)
    await unit.settle(keep=True)
    return unit.outcome


async def test_a_unit_that_sets_its_search_path_is_kept(database: Database, sql: RawSql):
    assert await keep(database, in_schema) is Outcome.COMMITTED
    assert len(sql("SELECT * FROM tenant.notes")) == 1
    assert len(sql("SELECT * FROM commit_witness")) == 1


async def test_its_lost_commit_is_asked_for(
    database: Database, sql: RawSql, proxy: Proxy, expect_log: ExpectLog
):
    await keep(database, in_schema)
    proxy.cut_at(b"COMMIT", delivered=True)

    with expect_log("onfinish.db", "was applied"):
        assert await keep(database, in_schema) is Outcome.COMMITTED

    assert len(sql("SELECT * FROM tenant.notes")) == 2


async def test_an_idempotency_key_is_kept_and_found_again_from_there(
    database: Database, sql: RawSql, proxy: Proxy, expect_log: ExpectLog
):
    """The key is claimed before the path is set, or after: a session's own event sets it first of all."""
    await keep(database)  # connects
    proxy.cut_at(b"COMMIT", delivered=True)

    with expect_log("onfinish.db", "was applied"):
        await keep(
            database,
            lambda session: claim_key(session, key=KEY, request_body=b""),
            in_schema,
            lambda session: keep_answer(session, key=KEY, answer=ANSWER),
        )
    found: list[Answer | None] = []

    def claim(session: Session) -> None:
        found.append(claim_key(session, key=KEY, request_body=b""))

    await keep(database, in_schema, claim)

    assert found == [ANSWER]
    assert len(sql("SELECT * FROM public.idempotency_keys")) == 1


async def test_a_schema_whose_name_is_no_plain_word_is_written_all_the_same(
    database_settings: DatabaseSettings, sql: RawSql
):
    """Its name goes into a statement's text, where % and a quote mean something to drivers."""
    sql('CREATE SCHEMA "10% ""off"" {x}"')
    sql('ALTER TABLE commit_witness SET SCHEMA "10% ""off"" {x}"')
    sql('ALTER TABLE idempotency_keys SET SCHEMA "10% ""off"" {x}"')
    sql('GRANT USAGE ON SCHEMA "10% ""off"" {x}" TO web')
    sql('ALTER ROLE web SET search_path TO "10% ""off"" {x}", public')
    database = Database(database_settings)

    await keep(
        database,
        in_schema,
        lambda session: claim_key(session, key=KEY, request_body=b""),
        lambda session: keep_answer(session, key=KEY, answer=ANSWER),
    )
    assert await keep(database, in_schema) is Outcome.COMMITTED

    assert len(sql('SELECT * FROM "10% ""off"" {x}".commit_witness')) == 1
    assert len(sql('SELECT * FROM "10% ""off"" {x}".idempotency_keys')) == 1
    await database.close()


async def test_a_role_without_a_grant_on_the_commit_markers_is_told_of_by_name(
    database: Database, sql: RawSql, expect_log: ExpectLog
):
    """Nothing is kept, and the log says what to grant."""
    with pytest.raises(StatementFailed, match=r"GRANT SELECT, INSERT, UPDATE ON public\.commit_witness TO"):
        await keep(database, as_role)

    assert sql("SELECT * FROM tenant.notes") == []


async def test_the_start_and_check_say_what_to_grant_to_roles_that_can_be_taken_on(
    database: Database, database_settings: DatabaseSettings
):
    (finding,) = await first_look(database, revision=head())

    found = (await asyncio.to_thread(look, database_settings))["roles"]

    assert (finding.level, finding.subject) == ("warning", "roles")
    assert finding.message.startswith(
        "tenant may not write public.commit_witness and public.idempotency_keys"
    )
    assert finding.fix == (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON public.commit_witness, public.idempotency_keys TO tenant"
    )
    assert found == finding


async def test_what_the_page_grants_is_enough(database: Database, sql: RawSql):
    [grant] = blocks(DOCS / "databases.md", "sql")

    sql(grant.text.replace("tenant_role", "tenant"))

    assert await keep(database, as_role) is Outcome.COMMITTED


async def test_what_is_granted_as_told_works(
    database: Database, database_settings: DatabaseSettings, sql: RawSql, proxy: Proxy, expect_log: ExpectLog
):
    await grant_as_told(database, sql)
    assert await keep(database, as_role) is Outcome.COMMITTED
    proxy.cut_at(b"COMMIT", delivered=True)

    with expect_log("onfinish.db", "was applied"):
        outcome = await keep(
            database,
            as_role,
            lambda session: claim_key(session, key=KEY, request_body=b""),
            lambda session: keep_answer(session, key=KEY, answer=ANSWER),
        )

    assert outcome is Outcome.COMMITTED
    assert len(sql("SELECT * FROM tenant.notes")) == 2
    assert await first_look(database, revision=head()) == []
    assert "roles" not in await asyncio.to_thread(look, database_settings)


async def test_a_group_that_writes_nothing_is_none_of_the_roles_that_are_told_of(
    database: Database, sql: RawSql
):
    """A provider's, for logging in, say: it is taken on by no transaction that writes."""
    sql("REVOKE ALL ON tenant.notes FROM tenant")

    assert await first_look(database, revision=head()) == []
