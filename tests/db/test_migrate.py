"""The schema and its revisions, on real databases."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config

from conf import DatabaseSettings
from db import Database
from db.base import Base
from db.errors import Conflict, DatabaseError, SchemaError, Unavailable
from db.schema import guards as migration, migrate
from tests.fixtures.board.rows import HELD_S, add_task, add_team
from tests.fixtures.databases import RawSql
from tests.fixtures.postgres import PostgresCluster

ONLY_POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

AddRevision = Callable[[str], str]


@pytest.fixture
def empty_settings(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[DatabaseSettings]:
    """A database with nothing in it at all."""
    if backend == "sqlite":
        yield DatabaseSettings(url=f"sqlite:///{tmp_path}/empty.db")
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres_cluster")
    name = cluster.create_database()
    yield DatabaseSettings(url=cluster.url_for(name))
    cluster.drop_database(name)


@pytest.fixture
def empty_sql(empty_settings: DatabaseSettings) -> RawSql:
    """Raw SQL on the empty database."""
    assert empty_settings.url is not None
    return RawSql(empty_settings.url.get_secret_value())


@pytest.fixture
def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddRevision:
    """``add_revision(body)`` adds a revision after the newest, which this process then knows; its name."""
    folder = tmp_path / "versions"
    folder.mkdir()
    plain = migrate._config

    def config(**attributes: object) -> Config:
        made = plain(**attributes)
        made.set_main_option("path_separator", "newline")
        made.set_main_option("version_locations", f"db.schema:migrations/versions\n{folder}")
        return made

    monkeypatch.setattr(migrate, "_config", config)

    def add(body: str) -> str:
        down = migrate.head()
        revision = f"{int(down) + 1:04}"
        (folder / f"{revision}_more.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n\n"
            f"revision = {revision!r}\ndown_revision = {down!r}\n\n\n"
            f"def upgrade():\n{textwrap.indent(textwrap.dedent(body), '    ')}"
        )
        return revision

    return add


def tables(settings: DatabaseSettings) -> set[str]:
    """The names of the tables that there are."""
    assert settings.url is not None
    url = settings.url.get_secret_value().replace("postgresql://", "postgresql+psycopg2://")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return set(sa.inspect(engine).get_table_names())


def test_an_empty_database_is_brought_to_the_newest_revision(empty_settings: DatabaseSettings):
    """And then code and schema agree: names, types, defaults, indexes, constraints."""
    assert migrate.current(empty_settings) is None
    assert any("run `python -m server migrate`" in sentence for sentence in migrate.drift(empty_settings))

    migrate.upgrade(empty_settings)

    assert migrate.current(empty_settings) == migrate.head()
    assert migrate.drift(empty_settings) == []
    assert tables(empty_settings) == {"alembic_version", *Base.metadata.tables}


def test_a_schema_that_is_there_already_stays_as_it_is(
    database: Database, database_settings: DatabaseSettings
):
    """Rows included: every start of a service migrates."""
    task_id = add_task(database)

    migrate.upgrade(database_settings)

    with database.session_scope(read_only=True) as session:
        assert session.scalar(sa.text("SELECT id FROM tasks")) == task_id


DRIFTS = [
    (
        "DROP INDEX ix_tasks_bundle_create_time_id",
        "index tasks.ix_tasks_bundle_create_time_id is in the code only",
    ),
    ("CREATE INDEX more ON tasks (change_id)", "index tasks.more is in the database only"),
    ("ALTER TABLE tasks ADD COLUMN more INTEGER", "column tasks.more is in the database only"),
    ("ALTER TABLE transfers DROP COLUMN create_time", "column transfers.create_time is in the code only"),
    ("CREATE TABLE more (id INTEGER)", "table more is in the database only"),
    ("DROP TABLE transfers", "table transfers is in the code only"),
]


@pytest.mark.parametrize(("statement", "sentence"), DRIFTS)
def test_what_differs_is_said(
    database_settings: DatabaseSettings, sql: RawSql, statement: str, sentence: str
):
    sql(statement)

    assert sentence in migrate.drift(database_settings)


ALTERATIONS = [
    ("ALTER bundle TYPE VARCHAR(65)", "type of tasks.bundle is VARCHAR(length=65) in the database"),
    ("ALTER create_time TYPE TIMESTAMP", "type of tasks.create_time is TIMESTAMP() in the database"),
    (
        "ALTER s3_keys DROP DEFAULT, ALTER s3_keys TYPE TEXT",
        "type of tasks.s3_keys is TEXT() in the database",
    ),
    ("ALTER version DROP DEFAULT", "default of tasks.version"),
    ("ALTER task_status SET DEFAULT 102", "default of tasks.task_status"),
    (
        "ALTER change_id DROP NOT NULL",
        "nullable of tasks.change_id is True in the database, False in the code",
    ),
    ("DROP CONSTRAINT fk_tasks_team_id_teams", "fk tasks.fk_tasks_team_id_teams is in the code only"),
    ("DROP CONSTRAINT ck_tasks_bundle", "check tasks.ck_tasks_bundle is in the code only"),
]


@ONLY_POSTGRESQL
@pytest.mark.parametrize(("alteration", "sentence"), ALTERATIONS)
def test_columns_and_constraints_that_differ_are_said(
    database_settings: DatabaseSettings, sql: RawSql, alteration: str, sentence: str
):
    """SQLite alters no column in place, so there is nothing there to be noticed."""
    sql(f"ALTER TABLE tasks {alteration}")

    assert [each for each in migrate.drift(database_settings) if each.startswith(sentence)]


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


def test_a_table_is_rebuilt_without_losing_what_refers_to_it(
    database: Database, database_settings: DatabaseSettings, sql: RawSql, add_revision: AddRevision
):
    """SQLite's way to alter a table drops the old one; with foreign keys on, the log would go with it."""
    team_id = add_team(database, "a")
    task_id = add_task(database, team_id=team_id)
    sql(
        "INSERT INTO transfers (task_id, to_team_id) VALUES (:task_id, :team_id)",
        task_id=task_id,
        team_id=team_id,
    )
    revision = add_revision(
        """
        with op.batch_alter_table("tasks") as batch:
            batch.add_column(sa.Column("more", sa.Integer(), server_default="1", nullable=False))
            batch.alter_column("bundle", type_=sa.String(65), existing_nullable=False)
        """
    )

    migrate.upgrade(database_settings)

    assert migrate.current(database_settings) == revision
    assert sql("SELECT id, team_id, more FROM tasks") == [{"id": task_id, "team_id": team_id, "more": 1}]
    assert sql("SELECT task_id FROM transfers") == [{"task_id": task_id}]
    differences = [sentence.split(" is ")[0] for sentence in migrate.drift(database_settings)]
    assert differences == ["type of tasks.bundle", "column tasks.more"]  # keys, checks and indexes came along
    with pytest.raises(Conflict), database.session_scope() as session:
        session.execute(sa.text("UPDATE tasks SET team_id = 999"))


def test_a_revision_that_leaves_rows_that_refer_to_nothing_is_undone(
    database: Database, database_settings: DatabaseSettings, sql: RawSql, add_revision: AddRevision
):
    """SQLite does not look while tables are rebuilt, and is asked at the end; PostgreSQL refuses itself."""
    add_task(database, team_id=add_team(database, "a"))
    add_revision("op.execute('DELETE FROM teams')")

    with pytest.raises((SchemaError, Conflict)):
        migrate.upgrade(database_settings)

    assert len(sql("SELECT id FROM teams")) == 1


@pytest.mark.parametrize("to", ["nonsense", "base", "+1", ""])
def test_a_revision_that_is_not_known_is_named_with_those_that_are(empty_settings: DatabaseSettings, to: str):
    with pytest.raises(SchemaError, match=f"no revision {re.escape(repr(to))}: choose head or one of 0001"):
        migrate.upgrade(empty_settings, to)


def test_migrations_stop_where_they_are_told_and_do_not_go_back(
    empty_settings: DatabaseSettings, add_revision: AddRevision
):
    newest = add_revision("op.create_table('more', sa.Column('id', sa.Integer))")

    migrate.upgrade(empty_settings, "0001")
    assert migrate.current(empty_settings) == "0001"
    migrate.upgrade(empty_settings, newest)

    with pytest.raises(
        SchemaError, match=f"is at {newest}, which comes after 0001: migrations go forward only"
    ):
        migrate.upgrade(empty_settings, "0001")
    assert migrate.current(empty_settings) == newest


def test_a_schema_newer_than_the_code_is_left_alone(database_settings: DatabaseSettings, sql: RawSql):
    """An old release that starts beside a new one says so, and what to do."""
    sql("UPDATE alembic_version SET version_num = 'ffff'")

    with pytest.raises(SchemaError, match="is at ffff, which this code does not know"):
        migrate.upgrade(database_settings)
    assert f"schema is at ffff, the code expects {migrate.head()}" in migrate.drift(database_settings)[0]


def test_whoever_migrates_waits_for_another_who_does(
    empty_settings: DatabaseSettings, empty_sql: RawSql, backend: str
):
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
def test_a_migration_that_would_queue_behind_a_long_transaction_gives_up(
    database_settings: DatabaseSettings,
    sql: RawSql,
    add_revision: AddRevision,
    monkeypatch: pytest.MonkeyPatch,
):
    """Everybody else would queue behind it: with an ALTER TABLE that waits, reads wait too."""
    monkeypatch.setattr(migration, "LOCK_TIMEOUT_S", 0.2)
    before = migrate.head()
    add_revision("op.add_column('tasks', sa.Column('more', sa.Integer))")
    with sql.connect() as reader:
        reader.cursor().execute("BEGIN; SELECT * FROM tasks")

        with pytest.raises(Unavailable, match="lock"):
            migrate.upgrade(database_settings)

    assert migrate.current(database_settings) == before


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


def test_the_sql_for_somebody_else_makes_the_same_schema(
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


def test_the_sql_is_written_without_a_database():
    """Nothing listens there."""
    text = migrate.sql(DatabaseSettings(url="postgresql://nobody@127.0.0.1:1/nothing"), "0001")

    assert "CREATE TABLE tasks" in text


def test_an_in_memory_database_is_migrated_on_its_one_connection(io_loop):
    database = Database(DatabaseSettings(url="sqlite://"))
    try:
        with database.writer.engine.begin() as connection:
            migrate.upgrade_on(connection)

        add_task(database)

        with database.writer.engine.connect() as connection:
            assert migrate.current_on(connection) == migrate.head()
    finally:
        io_loop.run_sync(database.close)


def test_a_draft_holds_what_the_code_has_and_the_database_has_not(
    database_settings: DatabaseSettings, sql: RawSql, add_revision: AddRevision, tmp_path: Path
):
    """It is Python, comes after the newest, and brings the database to where the code is."""
    sql("DROP INDEX ix_tasks_bundle_create_time_id")
    folder = tmp_path / "versions"

    path = migrate.draft(database_settings, "the list by bundle", folder=folder)

    revision = f"{int(migrate.head()):04}"
    assert path == folder / f"{revision}_the_list_by_bundle.py"
    ast.parse(path.read_text())
    migrate.upgrade(database_settings)
    assert migrate.current(database_settings) == revision
    assert migrate.drift(database_settings) == []


def test_revisions_make_one_line_and_their_files_sort_in_its_order():
    scripts = list(migrate._scripts().walk_revisions())

    assert [Path(script.path).name[:4] for script in reversed(scripts)] == [
        script.revision for script in reversed(scripts)
    ]
    assert len(migrate._scripts().get_heads()) == 1
