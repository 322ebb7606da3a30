"""Alembic's options: to migrate, and to compare."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from conf.database import VERSION_TABLE
from db.base import Json
from db.schema.branches import KERNEL, Branch
from db.schema.lease import TABLE as LEASE


def to_migrate(version_table: str) -> dict[str, Any]:
    """For revisions that are run, or written as SQL."""
    return {
        "version_table": version_table,
        # One transaction for all revisions: a failure leaves the schema where it was.
        "transaction_per_migration": False,
        "transactional_ddl": True,
    }


def to_compare(version_table: str, branches: Mapping[str, Branch], of: Collection[Branch]) -> dict[str, Any]:
    """For a comparison of the database with the tables of some branches; those of the others are left out.

    A table of no branch is a difference, unless it may be another application's: where there is no branch but
    the kernel's, and where the version table has a name of its own, which it needs beside another one only.
    """
    alone = version_table == VERSION_TABLE and any(branch.label != KERNEL for branch in of)
    theirs = {table.name for branch in branches.values() if branch not in of for table in branch.tables}
    theirs.add(LEASE)

    def is_compared(subject: Any, name: str | None, kind: str, reflected: bool, twin: Any) -> bool:
        if kind != "table" or not reflected or twin is not None:
            return True
        return alone and name not in theirs

    return to_migrate(version_table) | {
        "target_metadata": [metadata for branch in of for metadata in branch.metadata],
        "include_object": is_compared,
        # SQLite cannot alter most of a table; batch mode makes a new one and copies.
        "render_as_batch": True,
        "compare_type": True,
        "compare_server_default": _default_differs,
    }


_CLOCK = {"now()", "current_timestamp", "current_timestamp()"}


def _default_differs(
    context: Any, found: Any, column: Any, default: str | None, *expected: Any
) -> bool | None:
    """Compare a column's server default; None leaves it to Alembic, which asks the database about it.

    PostgreSQL has no equality for json; MySQL and MariaDB have a word of their own for now(); of a text with
    an apostrophe Alembic makes SQL that no database can parse.
    """
    wanted = expected[-1]
    literal = getattr(column.server_default, "arg", None)
    if isinstance(literal, str) and "'" in literal:
        doubled = literal.replace("'", "''")
        return re.fullmatch(rf"'{re.escape(doubled)}'(::.*)?", default or "") is None
    if {default and default.lower(), wanted and wanted.lower()} <= _CLOCK:
        return False
    if not isinstance(column.type, Json):
        return None
    return (default or "").removesuffix("::json") != (wanted or "").strip("()")
