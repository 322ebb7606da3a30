"""The comparison works on scratch databases, and leaves nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from conf import DatabaseSettings
from db import make_engine, make_url
from server.compare.model import Entry
from server.compare.scratch import scratch_database
from tests.fixtures.databases import RawSql

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'onfinish_compare%'"


def entries(settings: DatabaseSettings) -> int:
    """How many rows the table has."""
    engine = make_engine(settings, "reader")
    with engine.connect() as connection:
        number = connection.scalars(select(func.count()).select_from(Entry)).one()
    engine.dispose()
    return number


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_on_postgresql_it_is_a_schema_beside_the_others(database_settings: DatabaseSettings, sql: RawSql):
    """Empty; a table of the same name in another schema keeps its rows, also after an error."""
    sql("CREATE TABLE entries (id text PRIMARY KEY, text text)")
    sql("INSERT INTO entries (id, text) VALUES ('1', 'an application''s')")

    with pytest.raises(ZeroDivisionError), scratch_database(database_settings) as scratch:
        assert entries(scratch) == 0
        assert len(sql(SCHEMAS)) == 1
        raise ZeroDivisionError

    assert sql(SCHEMAS) == []
    assert sql("SELECT id FROM entries") == [{"id": "1"}]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_on_sqlite_it_is_a_file_elsewhere(database_settings: DatabaseSettings):
    """Whatever file is set: it is not opened, and need not exist."""
    with scratch_database(database_settings) as scratch:
        file = Path(str(make_url(scratch).database))
        assert file != Path(str(make_url(database_settings).database))
        assert entries(scratch) == 0

    assert not file.parent.exists()
