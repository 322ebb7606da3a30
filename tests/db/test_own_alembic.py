"""The kernel's tables in the Alembic chain of an application, by the snippets of docs/migrations.md."""

from __future__ import annotations

import io
import re
import textwrap
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from conf import DatabaseSettings
from db.engines.engine import blocking, make_url
from db.errors import SchemaError
from db.schema import migrate
from tests.fixtures.migrations import KERNEL_TABLES, tables
from tests.fixtures.process import ROOT

MODELS = "tests.examples.hero_model"

ENV = f"""
from alembic import context
from sqlalchemy import NullPool, create_engine
from {MODELS} import Base

OWN

url = context.config.get_main_option("url")
if context.is_offline_mode():
    context.configure(url=url, target_metadata=Base.metadata, literal_binds=True)
    context.run_migrations()
else:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, include_name=include_name)
        context.run_migrations()
"""

HEADER = "revision, down_revision = {revision!r}, {before!r}\n"

KERNEL_IN_THREE = """
from alembic import op
from db.schema import migrate

def upgrade():
    migrate.make_kernel_tables("kernel_0001")
    op.execute("SELECT 1")  # Alembic's proxy is still this revision's
    migrate.make_kernel_tables("kernel_0002", after="kernel_0001")
    migrate.make_kernel_tables(after="kernel_0002")
"""

HEROES = """
import sqlalchemy as sa
from alembic import op
from db.base import SerialId

def upgrade():
    op.create_table(
        "heroes",
        sa.Column("id", SerialId, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("age", sa.Integer),
    )
"""


def snippet(begin: str) -> str:
    """The block of the page that begins so."""
    page = (ROOT / "docs" / "migrations.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return next(block for block in blocks if block.startswith(begin))


@pytest.fixture
def chain(tmp_path: Path, empty_settings: DatabaseSettings) -> Config:
    """An application's Alembic, with a revision for its own table."""
    url = make_url(blocking(empty_settings)).render_as_string(hide_password=False)
    excluded = snippet("OURS").replace("context.configure(..., ", "own = dict(")
    own = f"{excluded}\ninclude_name = own['include_name']"
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV.replace("OWN", own))
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("url", url.replace("%", "%%"))
    add(tmp_path, "one", None, HEROES)
    return config


def add(folder: Path, revision: str, before: str | None, text: str) -> None:
    """Add a revision to the chain."""
    source = HEADER.format(revision=revision, before=before) + textwrap.dedent(text)
    (folder / "versions" / f"{revision}.py").write_text(source)


@pytest.mark.parametrize("text", ["", KERNEL_IN_THREE])
def test_an_applications_own_revision_makes_the_kernels_tables(
    text: str, chain: Config, tmp_path: Path, empty_settings: DatabaseSettings
):
    """As the kernel's own migration does, which finds no difference; nor does the application's Alembic."""
    add(tmp_path, "two", "one", text or snippet("from db.schema import migrate"))
    settings = empty_settings.model_copy(update={"version_table": "onfinish_version", "models": (MODELS,)})

    command.upgrade(chain, "head")
    made = tables(settings)
    migrate.stamp(settings, "kernel")

    assert made == {"heroes", "alembic_version", *KERNEL_TABLES}
    assert migrate.current(settings) == "kernel_0003"
    command.check(chain)
    assert [line for line in migrate.drift(settings) if any(table in line for table in KERNEL_TABLES)] == []


def test_it_is_written_as_sql_where_that_alembic_writes_sql(chain: Config, tmp_path: Path):
    add(tmp_path, "two", "one", snippet("from db.schema import migrate"))
    chain.output_buffer = io.StringIO()

    command.upgrade(chain, "one:two", sql=True)

    written = chain.output_buffer.getvalue()
    assert all(f"CREATE TABLE {table}" in written for table in KERNEL_TABLES)


def test_a_revision_that_the_kernel_has_not_is_refused(chain: Config, tmp_path: Path):
    add(tmp_path, "two", "one", snippet("from db.schema import migrate").replace("kernel_0003", "kernel_9"))

    with pytest.raises(SchemaError, match="there is no revision 'kernel_9'"):
        command.upgrade(chain, "head")
