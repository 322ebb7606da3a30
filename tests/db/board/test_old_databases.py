"""Databases that one chain of revisions made, 0001 to 0005, before the kernel had a branch of its own.

Their SQL in `old_databases` is what revision 02e2e1c printed (``migrate --sql``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conf import DatabaseSettings
from db import Database
from db.health import why_not_ready
from db.schema import migrate
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster

OLD = ("0001", "0002", "0003", "0004", "0005")
HEADS_THEN = "0005"
"""What processes of then expect in ``alembic_version``, in its only row; else they are not ready."""


@pytest.fixture(params=OLD)
def old_settings(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, DatabaseSettings]]:
    """A database at one of the old revisions, with a team in it; and the revision."""
    revision: str = request.param
    text = (Path(__file__).parent / "old_databases" / f"{backend}.sql").read_text()
    text, _, later = text.partition(f"-- Running upgrade {revision} -> ")
    script = f"{text}{'COMMIT;' if later else ''}INSERT INTO teams (name) VALUES ('Store');"
    if backend == "sqlite":
        settings = DatabaseSettings(url=f"sqlite:///{tmp_path}/old.db")
        with raw(settings).connect() as connection:
            connection.executescript(script)
        yield revision, settings
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres_cluster")
    name = cluster.create_database()
    settings = DatabaseSettings(url=cluster.url_for(name))
    with raw(settings).connect() as connection:
        connection.cursor().execute(script)
    yield revision, settings
    cluster.drop_database(name)


def raw(settings: DatabaseSettings) -> RawSql:
    """Raw SQL on a database."""
    assert settings.url is not None
    return RawSql(settings.url.get_secret_value())


@pytest.mark.gen_test
async def test_a_database_of_one_chain_is_carried_over(old_settings: tuple[str, DatabaseSettings]):
    """It is brought to both branches' heads, its rows stay, and a process of then finds what it expects.

    Until then it is not ready; at the chain's end it is, as it stands.
    """
    revision, settings = old_settings
    database = Database(settings)
    reason = await why_not_ready(database, revision=migrate.head())

    migrate.upgrade(settings)

    behind = f"the schema is at {revision}, the code expects {HEADS_THEN}: run `python -m server migrate`"
    assert reason == (None if revision == HEADS_THEN else behind)
    assert await why_not_ready(database, revision=migrate.head()) is None
    await database.close()
    assert migrate.drift(settings) == []
    assert raw(settings)("SELECT name FROM teams") == [{"name": "Store"}]
    assert raw(settings)("SELECT version_num FROM alembic_version") == [{"version_num": HEADS_THEN}]


@pytest.mark.parametrize("old_settings", ["0003"], indirect=True)
def test_the_kernels_branch_alone_can_be_carried_over_first(old_settings: tuple[str, DatabaseSettings]):
    _, settings = old_settings

    migrate.upgrade(settings, "kernel")

    assert migrate.current(settings) == "0003, kernel_0003"
    migrate.upgrade(settings)
    assert migrate.current(settings) == HEADS_THEN
    assert migrate.drift(settings) == []


def test_a_new_database_is_one_that_a_process_of_then_can_work_with(database: Database, sql: RawSql):
    """The new revisions' only mark is that of the old chain's end."""
    assert sql("SELECT version_num FROM alembic_version") == [{"version_num": HEADS_THEN}]
