"""What Alembic is told wherever it is called: to migrate, to compare and to draft a revision."""

from __future__ import annotations

from typing import Any

import db.board.tasks
import db.board.teams
import db.board.transfers

# Every module with tables, so that Base.metadata is whole.
import db.idempotency
import db.work.commit_marker  # noqa: F401
from db.base import Base, Json


def _default_differs(
    context: Any, found: Any, column: Any, default: str | None, *expected: Any
) -> bool | None:
    """Compare a column's server default; None leaves it to Alembic, which asks the database about it.

    PostgreSQL has no equality for json.
    """
    if not isinstance(column.type, Json):
        return None
    wanted = expected[-1]
    return (default or "").removesuffix("::json") != (wanted or "").strip("()")


OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    # SQLite cannot alter most of a table; batch mode makes a new one and copies.
    "render_as_batch": True,
    "compare_type": True,
    "compare_server_default": _default_differs,
    # One transaction for all revisions: a failure leaves the schema where it was.
    "transaction_per_migration": False,
    "transactional_ddl": True,
}
