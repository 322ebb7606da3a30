"""Rows that are inserted unless they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, literal, select, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.util import EMPTY_DICT

_DUPLICATE = 1062  # ER_DUP_ENTRY


def insert_unless_there(
    session: Session, entity: type[Any], values: Mapping[str, Any], options: Mapping[str, Any] = EMPTY_DICT
) -> bool:
    """Insert a row unless there is one with its key.

    Waits for a transaction that has inserted one and not ended.

    The transaction stays usable either way. MySQL and MariaDB have no ON CONFLICT, and their INSERT IGNORE
    also lets pass what does not fit; but a statement that is refused there undoes itself alone.

    Args:
        entity: a mapped class.
        values: by column.
        options: further execution options.

    Returns:
        Whether it was inserted.
    """
    if session.get_bind().dialect.name in ("mysql", "mariadb"):
        try:
            session.execute(insert(entity).values(dict(values)), execution_options=options)
        except IntegrityError as error:
            if error.orig is None or error.orig.args[0] != _DUPLICATE:
                raise
            return False
        return True
    types = entity.__table__.c
    row = select(*(literal(value, types[name].type).label(name) for name, value in values.items()))
    # SQLite takes ON CONFLICT after a SELECT for a join's, unless a WHERE stands between.
    unless_there = row.where(true()).suffix_with("ON CONFLICT DO NOTHING")
    # Else it is read of the cursor when that is closed already, and psycopg 3's is -1 then.
    kept = {**options, "preserve_rowcount": True}
    result: Any = session.execute(insert(entity).from_select([*values], unless_there), execution_options=kept)
    return int(result.rowcount) > 0
