"""What an application makes of SQLAlchemy by itself is as it would be without this package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conf import DatabaseSettings
from db.schema import migrate

_DDL = """
from sqlalchemy import JSON, Column, DateTime, Integer, LargeBinary, MetaData, String, Table, func
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

foreign = Table(
    "foreign", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(20)),
    Column("at", DateTime(timezone=True), server_default=func.now()), Column("data", JSON),
    Column("bytes", LargeBinary), mysql_engine="Aria",
)
for dialect in (mysql.dialect(), mysql.dialect(is_mariadb=True), postgresql.dialect(), sqlite.dialect()):
    print(CreateTable(foreign).compile(dialect=dialect))
"""


def ddl(before: str) -> str:
    """The DDL of a metadata that is not ours, in a process that has run some code before."""
    result = subprocess.run([sys.executable, "-c", before + _DDL], check=True, capture_output=True, text=True)
    return result.stdout


def test_importing_the_package_changes_no_ddl_of_another_metadata():
    plain = ddl("")

    beside = ddl("import db, db.idempotency, db.schema.migrate, server.app\n")

    assert beside == plain
    assert "ENGINE=Aria" in plain


def test_migrating_changes_no_ddl_of_another_metadata():
    """What a migration's tables need besides belongs to that migration alone."""
    before = (
        "from conf import DatabaseSettings\nfrom db.schema import migrate\n"
        "migrate.sql(DatabaseSettings(url='mysql+pymysql://user@host/name'))\n"
    )

    assert ddl(before) == ddl("")


@pytest.mark.parametrize("name", ["mysql", "mariadb"])
def test_each_table_that_a_revision_makes_is_innodb_with_text_that_is_compared_exactly(name: str):
    """Whatever the server's own are; an application's revisions need not say so."""
    script = migrate.sql(DatabaseSettings(url=f"{name}+pymysql://user@host/name"))

    ends = [part.partition("\n)")[2].partition(";")[0] for part in script.split("CREATE TABLE")[1:]]
    assert len(ends) >= 3  # those of the kernel, and Alembic's
    assert {end.strip() for end in ends} == {"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"}
