"""The branches of kernel and board, and the board's schema, on real databases."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config

from conf import DatabaseSettings
from db import Database
from db.base import KernelBase
from db.board.base import Base
from db.errors import Conflict, DatabaseError, SchemaError, Unavailable
from db.health import why_not_ready
from db.schema import guards as migration, migrate
from db.schema.branches import Branch, branches
from db.schema.revisions import Revisions
from tests.db import test_migrate as kernels
from tests.fixtures.board.rows import add_task, add_team
from tests.fixtures.databases import RawSql
from tests.fixtures.migrations import KERNEL_TABLES, AddRevision, Neighbours, tables
from tests.fixtures.process import ROOT

ONLY_POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def add_revision(add_revision: AddRevision) -> AddRevision:
    """Of the board, where no branch is named."""
    return functools.partial(add_revision, branch="board")


def test_an_empty_database_is_brought_to_the_newest_revision(empty_settings: DatabaseSettings):
    """And then code and schema agree: names, types, defaults, indexes, constraints."""
    assert migrate.current(empty_settings) is None
    assert any("run `python -m server migrate`" in sentence for sentence in migrate.drift(empty_settings))

    migrate.upgrade(empty_settings)

    assert migrate.current(empty_settings) == migrate.head()
    assert migrate.drift(empty_settings) == []
    assert tables(empty_settings) == {"alembic_version", *KERNEL_TABLES, *Base.metadata.tables}


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
    with pytest.raises(
        SchemaError, match=f"no revision {re.escape(repr(to))}: choose head or one of kernel, board, 0001"
    ):
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


@ONLY_POSTGRESQL
def test_a_migration_that_would_queue_behind_a_long_transaction_gives_up(
    database_settings: DatabaseSettings,
    sql: RawSql,
    add_revision: AddRevision,
    monkeypatch: pytest.MonkeyPatch,
):
    """All statements would queue behind it: with an ALTER TABLE that waits, reads wait too."""
    monkeypatch.setattr(migration, "LOCK_TIMEOUT_S", 0.2)
    before = migrate.head()
    add_revision("op.add_column('tasks', sa.Column('more', sa.Integer))")
    with sql.connect() as reader:
        reader.cursor().execute("BEGIN; SELECT * FROM tasks")

        with pytest.raises(Unavailable, match="lock"):
            migrate.upgrade(database_settings)

    assert migrate.current(database_settings) == before


def test_the_sql_is_written_without_a_database():
    """Nothing listens there."""
    text = migrate.sql(DatabaseSettings(url="postgresql://app@127.0.0.1:1/nothing"), "0001")

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


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where revisions of both branches are written, and found: no file of this tree changes."""
    folder = tmp_path / "versions"
    folder.mkdir()
    plain = Revisions.config

    def config(revisions: Revisions, **attributes: object) -> Config:
        made = plain(revisions, **attributes)
        made.set_main_option("version_locations", f"{made.get_main_option('version_locations')}\n{folder}")
        return made

    def branch(revisions: Revisions, label: str | None) -> Branch:
        return dataclasses.replace(chosen(revisions, label), folder=folder)

    chosen = Revisions.branch
    monkeypatch.setattr(Revisions, "config", config)
    monkeypatch.setattr(Revisions, "branch", branch)
    return folder


def write(settings: DatabaseSettings, message: str, branch: str) -> Path:
    """A revision of what its tables have and the database has not."""
    revision = migrate.write_revision(settings, message, branch=branch, from_tables=True)
    assert revision is not None
    assert revision.unfit == {}
    return revision.path


def test_a_revision_holds_what_the_code_has_and_the_database_has_not(
    database_settings: DatabaseSettings, sql: RawSql, written: Path
):
    """It is Python, comes after the newest, and brings the database to where the code is."""
    sql("DROP INDEX ix_tasks_bundle_create_time_id")

    path = write(database_settings, "the list by bundle", "board")

    revision = f"{int(migrate.head()):04}"
    assert path == written / f"{revision}_the_list_by_bundle.py"
    migrate.upgrade(database_settings)
    assert migrate.current(database_settings) == revision
    assert migrate.drift(database_settings) == []


def test_the_branches_are_apart_and_their_files_sort_in_the_order_of_their_revisions():
    """A line of revisions each, in a folder of its own, with its tables on a base of its own."""
    assert {label: branch.folder.relative_to(ROOT).as_posix() for label, branch in branches().items()} == {
        "kernel": "db/schema/migrations/kernel",
        "board": "db/board/migrations",
    }
    assert set(KernelBase.metadata.tables) == KERNEL_TABLES
    assert [{table.name for table in branch.tables} for branch in branches().values()] == [
        KERNEL_TABLES,
        set(Base.metadata.tables),
    ]
    for branch in branches().values():
        own = [script.revision for script in Revisions().line(branch)]
        files = sorted(path.name for path in branch.folder.glob("*_*.py") if path.name != "__init__.py")
        assert [name.startswith(f"{revision}_") for name, revision in zip(files, own, strict=True)] == (
            [True] * len(own)
        )


# -- several branches


def test_what_a_revision_of_one_branch_needs_of_another_comes_along(empty_settings: DatabaseSettings):
    migrate.upgrade(empty_settings, "0003")

    assert tables(empty_settings) == {"alembic_version", *KERNEL_TABLES, *Base.metadata.tables}
    assert migrate.current(empty_settings) == "0003"


@pytest.mark.gen_test
async def test_a_database_has_a_head_of_each_branch(
    database: Database, database_settings: DatabaseSettings, add_revision: AddRevision
):
    """`current`, `head`, readiness and `drift` name both."""
    revision = add_revision("op.create_table('more', sa.Column('id', sa.Integer))", branch="kernel")
    both = f"0005, {revision}"
    behind = f"schema is at 0005, the code expects {both}: run `python -m server migrate`"
    assert migrate.head() == both
    assert migrate.drift(database_settings) == [behind]
    assert await why_not_ready(database, revision=both) == f"the {behind}"

    migrate.upgrade(database_settings)

    assert migrate.current(database_settings) == both
    assert await why_not_ready(database, revision=both) is None
    assert migrate.drift(database_settings) == ["table more is in the database only"]
    with pytest.raises(SchemaError, match=f"is at {both}, which comes after kernel_0001"):
        migrate.upgrade(database_settings, "kernel_0001")


def test_a_revision_that_fails_undoes_those_of_the_other_branch(
    empty_settings: DatabaseSettings, add_revision: AddRevision
):
    """All branches are one transaction, whichever comes first."""
    add_revision("op.execute('SELECT nonsense FROM nowhere')", branch="kernel")
    add_revision("op.create_table('more', sa.Column('id', sa.Integer))")

    with pytest.raises(DatabaseError):
        migrate.upgrade(empty_settings)

    assert tables(empty_settings) == set()


def test_a_revision_of_a_branch_holds_nothing_of_the_others(
    database_settings: DatabaseSettings, sql: RawSql, written: Path
):
    """Nor of a table of no branch: the kernel's revisions are about the kernel's."""
    for statement in (
        "DROP INDEX ix_tasks_bundle_create_time_id",
        "DROP INDEX ix_idempotency_keys_create_time",
        "CREATE TABLE more (id INTEGER)",
    ):
        sql(statement)

    path = write(database_settings, "by age", "kernel")

    assert path.name == "kernel_0004_by_age.py"
    body = path.read_text().partition("def upgrade")[2]
    assert "ix_idempotency_keys_create_time" in body
    assert ("tasks" in body, "more" in body) == (False, False)
    with pytest.raises(SchemaError, match="no branch 'shop': choose one of kernel, board"):
        migrate.write_revision(database_settings, "by age", branch="shop")


SHOP = {
    "base.py": """
        from sqlalchemy.orm import DeclarativeBase

        class Base(DeclarativeBase):
            pass
    """,
    "goods.py": """
        from sqlalchemy.orm import Mapped, mapped_column

        from db.shop.base import Base

        class Thing(Base):
            __tablename__ = "goods"
            id: Mapped[int] = mapped_column(primary_key=True)
    """,
    "__init__.py": "",
    "migrations/__init__.py": "",
}

STEPS = """
import sys

from conf import DatabaseSettings
from db.schema import migrate

settings = DatabaseSettings(url=sys.argv[1])
for step in sys.argv[2:]:
    if step == "write":
        migrate.write_revision(settings, "the goods", from_tables=True)
    elif step == "upgrade":
        migrate.upgrade(settings)
    print(migrate.current(settings), migrate.head(), migrate.drift(settings))
"""


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_clone_without_the_board_has_the_kernels_branch_and_its_own(
    empty_settings: DatabaseSettings, empty_sql: RawSql, tmp_path: Path
):
    """The board's room is taken out: the kernel's tables come alone, beside tables of no branch.

    A package with a base, tables and an empty folder of revisions is a branch: its first revision is written.
    """
    clone, url = tmp_path / "clone", empty_settings.url
    assert url is not None
    for package in ("conf", "db"):
        shutil.copytree(
            ROOT / package, clone / package, ignore=shutil.ignore_patterns("board", "__pycache__")
        )
    empty_sql("CREATE TABLE notes (id INTEGER)")

    def steps(*steps: str) -> list[str]:
        command = [sys.executable, "-P", "-c", STEPS, url.get_secret_value(), *steps]
        done = subprocess.run(
            command,
            cwd=clone,
            env={"PYTHONPATH": str(clone)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert steps("upgrade") == ["kernel_0003 kernel_0003 []"]
    assert tables(empty_settings) == {"alembic_version", "notes", *KERNEL_TABLES}
    empty_sql("DROP TABLE notes")
    for name, text in SHOP.items():
        path = clone / "db" / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    assert steps("look", "write", "upgrade") == [
        "kernel_0003 kernel_0003 ['table goods is in the code only']",
        "kernel_0003 kernel_0003, shop_0001 "
        "['schema is at kernel_0003, the code expects kernel_0003, shop_0001: "
        "run `python -m server migrate`', 'table goods is in the code only']",
        "kernel_0003, shop_0001 kernel_0003, shop_0001 []",
    ]
    assert (clone / "db/shop/migrations/shop_0001_the_goods.py").is_file()


@pytest.mark.parametrize(("to", "revision"), [("head", "0003"), ("kernel", "0003"), ("head", "0005")])
def test_another_applications_revision_is_not_taken_for_the_boards(
    empty_settings: DatabaseSettings, neighbours: Neighbours, to: str, revision: str
):
    """Nor where it has the name of the newest."""
    kernels.test_another_applications_revision_is_not_taken_for_ours(empty_settings, neighbours, revision, to)
