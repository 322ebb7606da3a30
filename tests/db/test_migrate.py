"""The schema and its revisions, on real databases, whatever branches there are beside the kernel's."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from conf import DatabaseSettings
from db import Database
from db.errors import DatabaseError, SchemaError
from db.health import why_not_ready
from db.schema import guards as migration, migrate
from db.schema.newest import bring_up, newest
from tests.fixtures.databases import RawSql
from tests.fixtures.migrations import KERNEL_TABLES, AddRevision, Neighbours, tables

ONLY_POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

HELD_S = 0.3
"""How long a lock is held against a migration: long enough for one that does not wait to be seen ending."""


def test_a_revision_that_fails_leaves_nothing_behind(
    empty_settings: DatabaseSettings, add_revision: AddRevision
):
    """Not the revisions before it either: one transaction, and DDL is part of it on both databases."""
    add_revision(
        "op.create_table('more', sa.Column('id', sa.Integer))\nop.execute('SELECT nonsense FROM nowhere')"
    )

    with pytest.raises(DatabaseError):
        migrate.upgrade(empty_settings)

    assert tables(empty_settings) == set()
    assert migrate.current(empty_settings) is None


def test_a_schema_newer_than_the_code_is_left_alone(database_settings: DatabaseSettings, sql: RawSql):
    """An old release that starts beside a new one says so, and what to do."""
    sql("DELETE FROM alembic_version")
    sql("INSERT INTO alembic_version VALUES ('ffff')")

    with pytest.raises(SchemaError, match="is at ffff, which this code does not know"):
        migrate.upgrade(database_settings)
    assert f"schema is at ffff, the code expects {migrate.head()}" in migrate.drift(database_settings)[0]


def test_a_migration_waits_for_another(empty_settings: DatabaseSettings, empty_sql: RawSql, backend: str):
    """Held by hand here: PostgreSQL's advisory lock, SQLite's write lock."""
    hold = {
        "postgresql": f"BEGIN; SELECT pg_advisory_xact_lock({migration.ADVISORY_LOCK})",
        "sqlite": "BEGIN IMMEDIATE",
    }
    migrate.current(empty_settings)  # SQLite makes the file here
    with empty_sql.connect() as other, ThreadPoolExecutor(1) as thread:
        other.cursor().execute(hold[backend])
        future = thread.submit(migrate.upgrade, empty_settings)
        wait([future], timeout=HELD_S)
        assert not future.done()

        other.cursor().execute("COMMIT")

        future.result(timeout=10)
    assert migrate.drift(empty_settings) == []


def test_many_that_migrate_at_once_all_succeed(empty_settings: DatabaseSettings):
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(migrate.upgrade, empty_settings) for _ in range(4)]:
            future.result(timeout=30)

    assert migrate.drift(empty_settings) == []


@ONLY_POSTGRESQL
def test_a_statement_without_end_is_ended(
    database_settings: DatabaseSettings, add_revision: AddRevision, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(migration, "STATEMENT_TIMEOUT_S", 0.2)
    before = migrate.head()
    add_revision("op.execute('SELECT pg_sleep(30)')")

    with pytest.raises(SchemaError, match="time limit of migrations"):
        migrate.upgrade(database_settings)

    assert migrate.current(database_settings) == before


def test_the_printed_sql_makes_the_same_schema(
    empty_settings: DatabaseSettings, empty_sql: RawSql, backend: str
):
    """With the same time limits, in one transaction."""
    text = migrate.sql(empty_settings)

    assert re.search(r"\bBEGIN\b.*\bCOMMIT\b", text, re.DOTALL)
    with empty_sql.connect() as connection:
        if backend == "sqlite":
            connection.executescript(text)
        else:
            assert "SET LOCAL lock_timeout" in text
            connection.cursor().execute(text)
    assert migrate.drift(empty_settings) == []


def test_the_kernels_branch_comes_alone_where_it_is_asked_for(empty_settings: DatabaseSettings):
    """For an application that makes its tables otherwise; the others may follow later."""
    migrate.upgrade(empty_settings, "kernel")
    alone, at = tables(empty_settings), migrate.current(empty_settings)
    migrate.upgrade(empty_settings, "kernel")

    migrate.upgrade(empty_settings)

    assert alone == {"alembic_version", *KERNEL_TABLES}
    assert at == "kernel_0003"
    assert migrate.current(empty_settings) == migrate.head()
    assert migrate.drift(empty_settings) == []
    migrate.upgrade(empty_settings, "kernel")
    assert migrate.current(empty_settings) == migrate.head()


@pytest.mark.parametrize("revision", ["a1b2c3d4e5f6", "kernel_0002"])
@pytest.mark.parametrize("to", ["head", "kernel"])
def test_another_applications_revision_is_not_taken_for_ours(
    empty_settings: DatabaseSettings, neighbours: Neighbours, revision: str, to: str
):
    """Nor where it has the name of one of ours: no table of it is there. Nothing is changed."""
    neighbours(revision)

    with pytest.raises(SchemaError) as refused:
        migrate.upgrade(empty_settings, to)

    assert str(refused.value) == (
        f"the schema is at {revision}, but no table of that revision is there: alembic_version is another "
        "application's: set database.version_table to the name of a table for ours, onfinish_version for one"
    )
    assert tables(empty_settings) == {"customers", "alembic_version"}
    assert "another application's" in migrate.drift(empty_settings)[0]


def test_a_database_of_another_application_with_the_newest_revisions_name_is_not_taken_for_ours(
    empty_settings: DatabaseSettings, neighbours: Neighbours
):
    """At a server's start, which looks no further where the schema is the newest."""
    neighbours(newest().head)

    with pytest.raises(SchemaError, match="no table of that revision is there"):
        bring_up(empty_settings)

    assert tables(empty_settings) == {"customers", "alembic_version"}


def test_a_start_migrates_what_is_behind(empty_settings: DatabaseSettings):
    migrate.upgrade(empty_settings, "kernel_0001")

    bring_up(empty_settings)

    assert migrate.current(empty_settings) == migrate.head()
    assert migrate.drift(empty_settings) == []


REVISIONS = {
    "literals": [
        'revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = "kernel_0003"',
        'revision = "a2"\ndown_revision = "a1"\nbranch_labels = None\ndepends_on = None',
    ],
    "annotated": [
        'revision: str = "a1"\ndown_revision: str | None = None\nbranch_labels = ("app",)\ndepends_on = None'
    ],
    "two_heads": [
        'revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = ("kernel_0002",)',
        'revision = "a2"\ndown_revision = "a1"\nbranch_labels = None\ndepends_on = None',
        'revision = "a3"\ndown_revision = "a1"\nbranch_labels = None\ndepends_on = None',
    ],
    "merged": [
        'revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = None',
        'revision = "a2"\ndown_revision = "a1"\nbranch_labels = None\ndepends_on = None',
        'revision = "a3"\ndown_revision = "a1"\nbranch_labels = None\ndepends_on = None',
        'revision = "a4"\ndown_revision = ("a2", "a3")\nbranch_labels = None\ndepends_on = None',
    ],
    "computed": ['revision = "a" + "1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = None'],
    "depends_on_a_label": [
        'revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = "kernel"'
    ],
    "depends_on_nothing_that_it_names": ['revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)'],
    "changed_below": [
        'revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = None',
        'revision = "a2"\ndown_revision = "a1"\nbranch_labels = None\ndepends_on = None\n'
        "if True:\n    down_revision = None",
    ],
    "two_at_once": [
        'revision = "a1"\ndown_revision = None\nbranch_labels = ("app",)\ndepends_on = None\n'
        'revision, more = "a2", "a3"',
    ],
}


@pytest.mark.parametrize("files", REVISIONS.values(), ids=REVISIONS.keys())
def test_the_newest_revisions_are_those_that_alembic_finds(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    """A server reads the files without it, however they are written."""
    name = f"shop_{request.node.callspec.id}"
    folder = tmp_path / name / "migrations"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    for number, text in enumerate(files):
        (folder / f"{number}_more.py").write_text(f"{text}\n\n\ndef upgrade():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert newest([name]) == (migrate.head([name]), migrate.known([name]))
    assert newest() == (migrate.head(), migrate.known())


def test_a_revision_that_is_no_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "shop_unfinished" / "migrations"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "half.py").write_text("revision = (\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(SyntaxError) as refused:
        newest(["shop_unfinished"])

    assert refused.value.filename == str(folder / "half.py")


@pytest.mark.gen_test
async def test_beside_another_applications_revisions_ours_have_a_table_of_their_own(
    empty_settings: DatabaseSettings, empty_sql: RawSql, neighbours: Neighbours
):
    """By `database.version_table`; its own stay as they are, and its tables are no difference."""
    neighbours("kernel_0002")
    settings = empty_settings.model_copy(update={"version_table": "onfinish_version"})

    migrate.upgrade(settings)

    assert migrate.current(settings) == migrate.head()
    assert migrate.drift(settings) == []
    assert "CREATE TABLE onfinish_version" in migrate.sql(settings)
    assert empty_sql("SELECT version_num FROM alembic_version") == [{"version_num": "kernel_0002"}]
    database = Database(settings)
    assert await why_not_ready(database, revision=migrate.head()) is None
    await database.close()
