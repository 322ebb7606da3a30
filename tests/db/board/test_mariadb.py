"""The board's model functions, its schema and its sample, on MariaDB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

import db.schema.migrate
from conf import DatabaseSettings
from db import Database
from db.board import tasks
from tests.again import again
from tests.db.board import test_tables, test_tasks, test_teams, test_transfers
from tests.fixtures.board.rows import add_task
from tests.fixtures.databases import RawSql
from tests.fixtures.mariadb import MariaDbServer
from tests.fixtures.process import ROOT

globals().update(again(test_tables, test_tasks, test_teams, test_transfers))

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"


@pytest.fixture
def empty(mariadb_server: MariaDbServer) -> Iterator[str]:
    """The name of an empty database."""
    name = mariadb_server.create_database()
    yield name
    mariadb_server.drop_database(name)


def test_what_was_changed_by_hand_is_seen(mariadb_server: MariaDbServer, empty: str) -> None:
    settings = DatabaseSettings(url=mariadb_server.url_for(empty))
    db.schema.migrate.upgrade(settings)
    change = "ALTER TABLE teams DROP CONSTRAINT ck_teams_name, ADD COLUMN n integer"
    RawSql(mariadb_server.url_for(empty))(change)

    assert db.schema.migrate.drift(settings) == [
        "column teams.n is in the database only",
        "check teams.ck_teams_name is in the code only",
    ]


def test_seed_fills_it(database_url: str, sql: RawSql) -> None:
    command = [sys.executable, "-m", "server", "seed", "--tasks", "50", "--database-url", database_url]
    for _ in range(2):  # the second time everything is there
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done

    assert sql("SELECT count(*) AS n FROM tasks") == [{"n": 50}]


@pytest.mark.parametrize("limit", [5, 1000])
def test_a_page_of_large_tasks_ends_early(database: Database, limit: int) -> None:
    ids = [add_task(database, s3_keys={"a": "x" * (tasks.PAGE_CHARS_MAX // 2), "🜚": 1.0}) for _ in range(5)]

    with database.session_scope(read_only=True) as session:
        rows = tasks.list_tasks(session, limit=limit + 1)
        page = tasks.page_of(rows, limit)

    assert [row.id for row in page] == ids[:2:-1]
    assert len(rows) == (3 if limit == 1000 else 5)
    assert tasks.s3_keys_of(rows[0])["🜚"] == 1.0


def test_a_claim_has_the_values_of_what_is_claimed(database: Database) -> None:
    keys = {"b": 1e23, "a": [True, None, "🜚", 1.0], "": {}}
    add_task(database, s3_keys=keys)

    with database.session_scope() as session:
        [row] = tasks.claim_tasks(session, limit=1)

    assert (row.task_status, row.version) == (tasks.RUNNING, 2)
    assert repr(tasks.s3_keys_of(row)) == repr(keys)
