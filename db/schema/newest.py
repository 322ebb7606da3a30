"""The newest revisions that the code knows, and a database that is brought to them, without Alembic's import.

Alembic takes a tenth of a server's start and of its memory. It is loaded where there is something to migrate.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, inspect

from conf import DatabaseSettings
from db.schema.branches import branches
from db.schema.connections import migration
from db.schema.state import joined, revisions

_CONSTANTS = ("revision", "down_revision", "depends_on")

_NO_REVISION = (".#", "__init__")
"""How names of files begin that Alembic skips."""


class Newest(NamedTuple):
    """What revisions the code knows."""

    head: str
    """The newest of every branch, as one text; one that another's revision depends on is implied."""

    known: frozenset[str]
    """The name of each."""


def newest(models: Sequence[str] = ()) -> Newest:
    """What Alembic makes of the files, read from their constants.

    Args:
        models: the setting ``database.models``.

    Raises:
        SchemaError: there are no revisions, or one of the modules cannot be imported.
    """
    found: dict[str, set[str]] = {}
    folders = [branch.folder for branch in branches(tuple(models)).values()]
    files = [path for each in folders for path in each.glob("*.py") if not path.name.startswith(_NO_REVISION)]
    for path in files:
        name, *before = _constants_of(path)
        if isinstance(name, str) and ... not in before:
            found[name] = {each for value in before for each in _names_in(value)}
    older = set().union(*found.values())
    head = joined(found.keys() - older)
    if head is not None and len(found) == len(files) and older <= found.keys():
        return Newest(head, frozenset(found))
    # There are none, or one is computed, or named by a label or a part of its name: Alembic's to resolve.
    from db.schema.revisions import Revisions

    loaded = Revisions(models)
    return Newest(loaded.head, loaded.known)


def bring_up(settings: DatabaseSettings) -> None:
    """`db.schema.migrate.upgrade` to the head, where the database is not there yet."""
    with migration(settings) as connection:
        bring_up_on(connection, settings)


def bring_up_on(connection: Connection, settings: DatabaseSettings) -> None:
    """`bring_up` on a connection of the caller's, which commits or rolls back."""
    if not _is_newest(connection, settings):
        from db.schema import migrate

        migrate.upgrade_on(connection, version_table=settings.version_table, models=settings.models)


def _is_newest(connection: Connection, settings: DatabaseSettings) -> bool:
    """Whether the database is at the head, of this code's revisions and not of others with their names."""
    inspector = inspect(connection)
    if not inspector.has_table(settings.version_table):
        return False
    if joined(connection.scalars(revisions(settings))) != newest(settings.models).head:
        return False
    tables = [table for branch in branches(tuple(settings.models)).values() for table in branch.tables]
    return any(inspector.has_table(table.name, table.schema) for table in tables)


def _names_in(value: str | Sequence[str] | None) -> Sequence[str]:
    return [value] if isinstance(value, str) else value or ()


def _constants_of(path: Path) -> list[Any]:
    """Of a revision's constants the values; ... for one that is not a literal, or not there."""
    values: dict[str, Any] = dict.fromkeys(_CONSTANTS, ...)
    for node in ast.parse(path.read_bytes(), str(path)).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                if name in values:
                    try:
                        values[name] = ast.literal_eval(value)
                    except ValueError:
                        values[name] = ...
            case ast.Expr() | ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
                pass
            case _:  # it may change the constants, or refuse to be imported
                return [...] * len(values)
    return [*values.values()]
