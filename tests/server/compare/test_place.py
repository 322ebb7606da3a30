"""The comparison works on a database of its own, and leaves nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import DatabaseSettings
from db import make_url
from db.schema import migrate
from server.compare.place import own_place
from tests.fixtures.databases import RawSql

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'onfinish_compare%'"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_on_postgresql_it_is_a_schema_beside_the_others(database_settings: DatabaseSettings, sql: RawSql):
    """Migrated and empty; what is in the database already is not touched, also after an error."""
    sql("INSERT INTO teams (name) VALUES ('red')")

    with pytest.raises(ZeroDivisionError), own_place(database_settings) as place:
        assert migrate.current(place) == migrate.head()
        assert len(sql(SCHEMAS)) == 1
        [schema] = sql(SCHEMAS)
        assert sql(f"SELECT count(*) AS n FROM {schema['nspname']}.teams") == [{"n": 0}]
        raise ZeroDivisionError

    assert sql(SCHEMAS) == []
    assert sql("SELECT name FROM teams") == [{"name": "red"}]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_on_sqlite_it_is_a_file_elsewhere(database_settings: DatabaseSettings, sql: RawSql):
    """Whatever file is set: it is not opened, and need not exist."""
    with own_place(database_settings) as place:
        file = Path(str(make_url(place).database))
        assert file != Path(str(make_url(database_settings).database))
        assert migrate.current(place) == migrate.head()

    assert not file.parent.exists()
