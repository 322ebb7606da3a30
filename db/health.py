"""Whether the database can be worked with now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from conf.program import COMMAND
from db.backend import Backend
from db.backends.choose import backend_for
from db.backends.refusals import drivers_words, way_in
from db.database import Database
from db.doctor.checkups import checkup_for
from db.doctor.findings import Finding, error
from db.engines.beside import engine_beside
from db.engines.engine import blocking, make_url
from db.errors import (
    DatabaseError,
    DeadlinePassed,
    NotInSchema,
    NotMigrated,
    PoolerInBetween,
    PoolTimeout,
    StatementFailed,
    Unavailable,
)
from db.schema.state import WAY_OUT, joined, not_migrated, revisions

Work = Literal["reads", "writes"]

LABEL = "readiness check"
"""Of the units of work that find out whether the database can be worked with."""

CHECK_TIMEOUT_S = 2.0
"""A probe that waits longer is of no use to its load balancer."""


class Fault(NamedTuple):
    """Why the database cannot be worked with."""

    told: str
    """A sentence for any reader: it names no host."""

    words: str = ""
    """The driver's own, for the log and the terminal."""

    fix: str = ""

    def __str__(self) -> str:
        return f"{self.told} ({self.words})" if self.words else self.told


async def why_not_ready(database: Database, *, revision: str | None) -> str | None:
    """As `faults_of`, as one sentence; None where there is none."""
    return told(await faults_of(database, revision=revision))


def told(faults: Iterable[Fault]) -> str | None:
    """Faults as one sentence for any reader; None where there is none."""
    return "; ".join(fault.told for fault in faults) or None


async def faults_of(database: Database, *, revision: str | None, work: Work | None = None) -> list[Fault]:
    """Ask the database, as a request would.

    Args:
        revision: what the code expects, `db.schema.migrate.head()`; None where no revisions are kept.
        work: what it is to be ready for: ``reads`` asks the reader, ``writes`` the writer, which then has to
            take writes. None: both, where they are two databases.

    Returns:
        Why it is not ready; nothing where it is.
    """
    if work != "reads" and (left := database.registry.left.unconfirmed):
        return [Fault(f"no COMMIT succeeds: the database has not answered {left}, and is still at them")]
    if database.settings.reader_url is None:
        fault = await _fault(database, revision=revision, work=work or "reads")
        return [fault] if fault is not None else []
    endpoints: dict[Work, str] = {"writes": "primary", "reads": "replica"}
    chosen = [each for each in endpoints if work in (None, each)]
    # At once, for a probe has no patience for one after the other.
    found = await _all(_fault(database, revision=revision, work=each) for each in chosen)
    return [
        fault._replace(told=f"{endpoints[each]}: {fault.told}")
        for each, fault in zip(chosen, found, strict=True)
        if fault is not None
    ]


async def faults_of_all(
    database: Database, others: Mapping[str, Database], *, revision: str | None, work: Work | None = None
) -> list[Fault]:
    """As `faults_of`, of an application's database and of its others, all at once.

    Args:
        database: whose schema is to be at ``revision``.
        others: by name; these are to answer.
        revision: as of `faults_of`.
        work: as of `faults_of`, for each of them.
    """
    async with asyncio.TaskGroup() as group:
        asked = {
            name: group.create_task(faults_of(other, revision=None, work=work))
            for name, other in others.items()
        }
        faults = await faults_of(database, revision=revision, work=work)
    for name, task in asked.items():
        faults += [fault._replace(told=f"{name}: {fault.told}") for fault in task.result()]
    return faults


async def _all(asked: Iterable[Coroutine[Any, Any, Fault | None]]) -> list[Fault | None]:
    """Each in a task of its own, which may hold a slot of its own."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in asked]
    return [task.result() for task in tasks]


async def _fault(database: Database, *, revision: str | None, work: Work) -> Fault | None:
    read_only = work == "reads"
    deadline_at = time.monotonic() + CHECK_TIMEOUT_S
    try:
        async with database.unit_of_work(label=LABEL, read_only=read_only, deadline_at=deadline_at) as unit:
            unit.exempt_from_max_waiting = True  # a queue that is full for a moment is served soon
            found = await unit.run(_revision if revision else _answers, unit.session, database.settings)
            if not read_only and (why := await unit.run(_why_no_commit, unit.session, database.backend)):
                raise Unavailable(why)  # which rolls back
    except PoolTimeout as error:
        if read_only:
            return Fault(f"no connection is free: {error}")
        # Writers that are stuck behind a lock are no reason to send reads elsewhere; COMMITs that hang are.
        with suppress(DatabaseError, DBAPIError, TimeoutError):  # nothing is known then
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                why = await database.in_thread(partial(_why_no_commit_beside, database))
            return None if why is None else Fault(why)
        return None
    except DatabaseError as error:
        if isinstance(error, NotInSchema | NotMigrated) and revision:
            return _not_migrated(None, revision)
        return _fault_of(error, database.backend)
    # A newer one is migrated to before instances of its code replace this one, in a rolling deployment.
    if revision and found != revision and not database.is_newer(found):
        return _not_migrated(found, revision)
    return None


def _not_migrated(found: str | None, revision: str) -> Fault:
    return Fault(not_migrated(found, revision), fix=WAY_OUT)


def _fault_of(error: DatabaseError, backend: Backend) -> Fault:
    if isinstance(error, DeadlinePassed):
        fix = "is the server running, does it take connections from here, are user and password right?"
        return Fault(f"the database does not answer within {CHECK_TIMEOUT_S:g} s", fix=fix)
    words = drivers_words(error)
    if type(error) is Unavailable:
        return Fault(str(error), words)
    if isinstance(error, StatementFailed):
        fix = f"may this user read the tables? `{COMMAND} check` looks at it all"
        return Fault(f"the database does not tell its schema's revision: {error}", words, fix)
    return Fault(f"the database does not answer: {error}", words, way_in(words, backend))


async def first_look(database: Database, *, revision: str | None) -> list[Finding]:
    """Findings about the database at the start: why it cannot be worked with, what its roles lack.

    Args:
        revision: as of `why_not_ready`.

    Raises:
        PoolerInBetween: see `require_known_pooler`.
    """
    unanswered = await require_known_pooler(database)
    if unanswered is not None and database.settings.reader_url is None:
        faults = [_fault_of(unanswered, database.backend)]
    else:
        faults = await faults_of(database, revision=revision)
    if faults:
        return [error("database", str(fault).removesuffix(f": {fault.fix}"), fault.fix) for fault in faults]
    deadline_at = time.monotonic() + CHECK_TIMEOUT_S
    try:
        async with database.unit_of_work(
            label="look at the roles", read_only=True, deadline_at=deadline_at
        ) as unit:
            return await unit.run(_roles, unit.session, database.reader.backend, database.settings)
    except DatabaseError:
        return []


async def require_known_pooler(database: Database) -> DatabaseError | None:
    """See at the start to it that no pooler stands before the database which the settings do not know of.

    One that refuses what connections start with would refuse every request. One that drops it
    (``ignore_startup_parameters``) would have the reader write, and statements run without limit.

    Returns:
        None, or why the database could not be asked now.

    Raises:
        PoolerInBetween: there is one.
    """
    deadline_at = time.monotonic() + CHECK_TIMEOUT_S
    try:
        async with database.unit_of_work(
            label="look at the database", read_only=True, deadline_at=deadline_at
        ) as unit:
            read_only = await unit.run(_is_read_only, unit.session, database.reader.backend)
    except PoolerInBetween:
        raise
    except DatabaseError as unanswered:
        return unanswered
    if not read_only:
        raise PoolerInBetween("the options with which connections start have no effect")
    return None


def _is_read_only(session: Session, backend: Backend) -> bool:
    return backend.is_read_only(session.connection())


def _why_no_commit(session: Session, backend: Backend) -> str | None:
    return backend.why_no_commit(session.connection())


def _why_no_commit_beside(database: Database) -> str | None:
    """As `Backend.why_no_commit`, over a connection beside the pool."""
    settings = blocking(database.settings)
    backend = backend_for(make_url(settings), settings.pooler)
    if backend.why_no_sessions:
        return None
    engine = engine_beside(settings, "migration", backend, database.writer.engine)
    try:
        with engine.connect() as connection:
            return backend.why_no_commit(connection)
    finally:
        engine.dispose()


def _roles(session: Session, backend: Backend, settings: DatabaseSettings) -> list[Finding]:
    return list(checkup_for(backend).examine_roles(session.connection(), settings))


def _revision(session: Session, settings: DatabaseSettings) -> str | None:
    return joined(session.scalars(revisions(settings)))


def _answers(session: Session, settings: DatabaseSettings) -> None:
    session.execute(text("SELECT 1"))
