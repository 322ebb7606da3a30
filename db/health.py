"""Whether the database can be worked with now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.database import Database
from db.dialects import Dialect
from db.errors import DatabaseError, NoPlace, PoolerInBetween, StatementFailed, Unavailable

CHECK_TIMEOUT_S = 2.0
"""A probe that waits longer tells its load balancer nothing."""


async def why_not_ready(database: Database, *, revision: str | None) -> str | None:
    """Ask the database, on the reader, as a request would; where that is a replica, ask both.

    Args:
        revision: the schema's revision that the code expects; None where nobody keeps one.

    Returns:
        None where all is well, else a sentence that names the fault and no host.
    """
    if database.settings.reader_url is None:
        return await _why_not(database, revision=revision, read_only=True)
    lanes = {"primary": False, "replica": True}
    # At once, for a probe has no patience for one after the other.
    asked = [_why_not(database, revision=revision, read_only=read_only) for read_only in lanes.values()]
    faults = [
        f"{name}: {fault}" for name, fault in zip(lanes, await _all(asked), strict=True) if fault is not None
    ]
    return "; ".join(faults) or None


async def _all(asked: Iterable[Coroutine[Any, Any, str | None]]) -> list[str | None]:
    """Each in a task of its own, which may have a place of its own."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in asked]
    return [task.result() for task in tasks]


async def _why_not(database: Database, *, revision: str | None, read_only: bool) -> str | None:
    deadline_at = time.monotonic() + CHECK_TIMEOUT_S
    try:
        async with database.unit_of_work(
            label="readiness check", read_only=read_only, deadline_at=deadline_at
        ) as unit:
            found = await unit.run(_revision if revision else _answers, unit.session)
    except NoPlace as error:
        # Writers that are stuck behind a lock are no reason to send reads elsewhere.
        return f"no connection is free: {error}" if read_only else None
    except (Unavailable, DatabaseError) as error:
        if isinstance(error, StatementFailed) and revision:
            return f"there is no schema; the code expects {revision}: run `python -m server migrate`"
        return f"the database does not answer: {error}"
    if found != revision:
        return f"the schema is at {found}, the code expects {revision}: run `python -m server migrate`"
    return None


async def require_known_pooler(database: Database) -> None:
    """See at the start to it that no pooler stands before the database which the settings do not know of.

    One that refuses what connections start with would refuse every request. One that drops it
    (``ignore_startup_parameters``) would have the reader write, and statements run without limit.
    A database that cannot be asked now is left to `why_not_ready`.

    Raises:
        PoolerInBetween: there is one.
    """
    deadline_at = time.monotonic() + CHECK_TIMEOUT_S
    try:
        async with database.unit_of_work(
            label="look at the database", read_only=True, deadline_at=deadline_at
        ) as unit:
            read_only = await unit.run(_is_read_only, unit.session, database.reader.dialect)
    except PoolerInBetween:
        raise
    except DatabaseError:
        return
    if not read_only:
        raise PoolerInBetween("the options with which connections start have no effect")


def _is_read_only(session: Session, dialect: Dialect) -> bool:
    return dialect.is_read_only(session.connection())


def _revision(session: Session) -> str | None:
    revision: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _answers(session: Session) -> None:
    session.execute(text("SELECT 1"))
