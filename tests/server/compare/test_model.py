"""The comparison has a model, handlers and tables of its own: without a board it runs all the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from sqlalchemy import inspect
from tornado.web import Application

from conf import DatabaseSettings
from db import Database, make_engine
from db.errors import NotFound
from server import compare
from server.compare.handlers import application, routes
from server.compare.model import Base, create_entry, get_entry, list_entries
from tests.fixtures.server import Serve

PACKAGE = Path(compare.__file__).parent


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_module_of_the_comparison_imports_a_board_or_the_application():
    """What a clone deletes and puts together anew is not needed here."""
    for path in sorted(PACKAGE.rglob("*.py")):
        others = [name for name in imported(path) if "board" in name.split(".") or "server.app" in name]
        assert others == [], path.relative_to(PACKAGE)


def test_its_database_has_its_table_and_the_kernels(scratch: DatabaseSettings):
    """Without the table of commit markers, a COMMIT without an answer is unknown in the comparison alone."""
    engine = make_engine(scratch, "migration")

    tables = set(inspect(engine).get_table_names())

    engine.dispose()
    assert set(Base.metadata.tables) == {"entries"}
    assert tables >= {"entries", "commit_witness"}


def test_the_model_functions_work_in_the_callers_session(scratch: DatabaseSettings):
    """They flush at most; the block commits, and undoes what raises."""
    database = Database(scratch)
    try:
        with database.session_scope() as session:
            entry_id = create_entry(session, text="one").id
            assert [entry.text for entry in list_entries(session) if entry.id == entry_id] == ["one"]
        with database.session_scope() as session:
            assert get_entry(session, entry_id=entry_id).text == "one"
        with pytest.raises(NotFound), database.session_scope() as session:
            create_entry(session, text="undone")
            get_entry(session, entry_id="0" * 32)
        with database.session_scope() as session:
            assert "undone" not in [entry.text for entry in list_entries(session)]
    finally:
        database.writer.engine.dispose()
        database.reader.engine.dispose()


@pytest.mark.gen_test
async def test_an_entry_is_made_and_read_over_http(scratch: DatabaseSettings, serve: Serve):
    """The requests of the load, and what they refuse."""
    database = Database(scratch)
    served: Application = application(database, routes())
    client = serve(served)

    made = await client.post("/entries", {"text": "over HTTP"})
    read = await client.get(f"/entries/{made.json()['id']}")
    missing = await client.get(f"/entries/{'0' * 32}")
    refused = await client.post("/entries", {"bundle": "store"})

    await database.close(grace_s=1)
    assert [made.code, read.code, missing.code, refused.code] == [201, 200, 404, 422]
    assert read.json() == made.json() == {"id": made.json()["id"], "text": "over HTTP"}
