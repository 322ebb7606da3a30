"""What a constraint's refusal means to a client."""

from __future__ import annotations

import re

from sqlalchemy.exc import DBAPIError

from db.errors import Conflict, ConstraintFailed, DatabaseError

refusals: dict[str, str] = {}
"""What a constraint's refusal means, as a sentence for a client.

Filled beside each table. Keys are constraint names; ``NOT NULL table.column``; and, for SQLite, which names
the columns of a unique constraint instead, ``table.column``. None holds any data.

A unique, exclusion or foreign key constraint without a sentence is a conflict in general words. A NOT NULL or
a CHECK without one is a fault of the program (`ConstraintFailed`): no client can do anything about it.
"""


def refused_by(
    constraint: str | None, *, table: str | None = None, fault: str | None = None
) -> DatabaseError:
    """The error for a refusal by a constraint, with the sentence written for it.

    Args:
        constraint: its name; ``NOT NULL table.column``.
        table: the table that it belongs to, where that is known.
        fault: the driver's code, where it is a fault of the program unless a sentence is written.
    """
    sentence = refusals.get(constraint or "")
    if sentence is None and fault is not None:
        return ConstraintFailed(fault, constraint=constraint, table=table)
    general = "the data as it stands does not allow this"
    return Conflict(sentence or general, constraint=constraint, table=table)


_TABLE = re.compile(
    r"\s*(?:(?:INSERT|REPLACE)(?: OR \w+| IGNORE)? INTO|UPDATE(?: OR \w+)?|DELETE FROM)\s+"
    r"(?:[`\"]?\w+[`\"]?\.)?[`\"]?(\w+)",
    re.IGNORECASE,
)


def table_of(error: DBAPIError) -> str | None:
    """The table that a statement writes to, for a database whose errors have no field for it.

    It is read off the beginning of the statement, where there can be no data. None at COMMIT.
    """
    found = _TABLE.match(error.statement or "")
    return found and found[1]
