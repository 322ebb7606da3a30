"""A server that does not let the service in is unreachable; and credentials that change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database, Outcome
from db.errors import OutcomeUnknown, Unreachable
from tests.fixtures.databases import RawSql
from tests.fixtures.logs import ExpectLog
from tests.fixtures.postgres import PostgresCluster
from tests.fixtures.proxies import MakeProxy

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.parametrize(
        "backend", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True
    ),
]


@pytest.fixture
def web(sql: RawSql) -> Iterator[str]:
    """A role that may log in."""
    sql("CREATE ROLE web LOGIN PASSWORD 'old'")
    sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO web")
    sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO web")
    yield "web"
    sql("DROP OWNED BY web")
    sql("DROP ROLE web")


def settings_for(database_url: str, **parts: Any) -> DatabaseSettings:
    url = make_url(database_url).set(**{"username": "web", "password": "old"} | parts)
    return DatabaseSettings(url=url.render_as_string(hide_password=False), pool_size=1)


@pytest.mark.parametrize("why", ["wrong password", "no login", "no such database", "no such role", "full"])
async def test_a_login_that_is_refused_is_a_database_that_cannot_be_reached(
    database_url: str, web: str, sql: RawSql, why: str
):
    parts: dict[str, Any] = {}
    if why == "wrong password":
        parts["password"] = "wrong"
    elif why == "no such database":
        parts["database"] = "no_such_database"
    elif why == "no such role":
        parts["username"] = "no_such_role"
    elif why == "no login":
        sql("ALTER ROLE web NOLOGIN")
    else:
        sql("ALTER ROLE web CONNECTION LIMIT 0")
    database = Database(settings_for(database_url, **parts))

    with pytest.raises(Unreachable) as caught:
        async with database.unit_of_work() as unit:
            await unit.run(lambda session: session.execute(text("SELECT 1")), unit.session)

    assert str(caught.value) in (  # and not by what name
        "the database cannot be reached",
        "the database cannot be worked with at the moment",
    )
    await database.close()


def add_key(session: Session) -> None:
    session.execute(
        text("INSERT INTO idempotency_keys (method, path, key, fingerprint) VALUES ('POST', '/', 'a', '')")
    )


@pytest.mark.parametrize("breaks", [False, True])
async def test_commit_markers_connect_with_the_credentials_that_the_writer_has_now(
    database_url: str,
    web: str,
    sql: RawSql,
    make_proxy: MakeProxy,
    postgres_cluster: PostgresCluster,
    expect_log: ExpectLog,
    breaks: bool,
):
    """A listener renews them (`do_connect`), as tokens that live for a quarter of an hour. Where that fails,
    the outcome is unknown, and nothing worse."""
    proxy = make_proxy(("127.0.0.1", postgres_cluster.port))
    database = Database(settings_for(database_url, port=proxy.port))
    connected = 0

    @event.listens_for(database.writer.engine, "do_connect")
    def with_a_token(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> None:
        nonlocal connected
        connected += 1
        if breaks and connected > 1:
            raise LookupError("there is no token")
        cparams["password"] = "new"

    sql("ALTER ROLE web PASSWORD 'new'")
    unit = database.unit_of_work(deadline_at=time.monotonic() + 2)
    await unit.run(add_key, unit.session)
    proxy.cut_at(b"COMMIT", delivered=True)
    if breaks:
        with pytest.raises(OutcomeUnknown):
            await unit.settle(keep=True)
    else:
        with expect_log("onfinish.db", "was applied"):
            await unit.settle(keep=True)

    assert unit.outcome is (Outcome.UNKNOWN if breaks else Outcome.COMMITTED)
    await database.close()
