"""Rows that several workers take from a queue, each row given to one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, inspect, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session


def take_rows(
    session: Session,
    entity: type[Any],
    *,
    columns: Sequence[ColumnElement[Any]],
    where: Sequence[ColumnElement[bool]],
    order_by: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
    limit: int,
    values: Mapping[Any, Any],
) -> Sequence[Row[Any]]:
    """Change the first rows that no other transaction is about to change, in one statement if possible.

    On PostgreSQL rows that another transaction has locked are passed over (`SKIP LOCKED`), and the
    choice is materialised, so that the limit is applied once however the update is planned. SQLite
    drops the lock clause silently: there the transaction has had the write lock since its BEGIN,
    and no other can be choosing.
    https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
    MySQL and MariaDB know SKIP LOCKED and no UPDATE … RETURNING: they lock, change and read in turn.

    Args:
        entity: a mapped class with one primary key column.
        columns: what is returned of each row. No objects are made or refreshed.
        where: which rows.
        order_by: which of them first. The result is in no order.
        limit: how many at most.
        values: new values by column; they may be expressions over the old ones.

    Returns:
        The rows as they are now.
    """
    (key,) = inspect(entity, raiseerr=True).primary_key
    chosen = select(key).where(*where).order_by(*order_by).limit(limit)
    statement = update(entity).values(dict(values)).execution_options(synchronize_session=False)
    backend = session.get_bind().dialect.name
    if backend in ("mysql", "mariadb"):
        keys = session.scalars(chosen.with_for_update(skip_locked=True)).all()
        if not keys:
            return []
        session.execute(statement.where(key.in_(keys)))
        return session.execute(select(*columns).where(key.in_(keys))).all()
    if backend == "sqlite":
        statement = statement.where(key.in_(chosen))
    else:
        taken = chosen.with_for_update(skip_locked=True).cte("taken").prefix_with("MATERIALIZED")
        statement = statement.where(key == taken.c[key.name])
    return session.execute(statement.returning(*columns)).all()
