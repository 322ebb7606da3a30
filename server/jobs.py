"""The jobs of a server."""

from __future__ import annotations

import logging
import math
import threading

from db import Database, Jobs
from db.errors import DatabaseError, PoolTimeout
from db.idempotency import delete_expired_keys
from db.work.commit_marker import delete_old_markers

log = logging.getLogger("onfinish.jobs")

_TIMEOUT_S = 30.0
"""How long one transaction of a job may take."""


def start_jobs(database: Database, *, first: bool, every_s: float) -> Jobs:
    """Start the jobs of one process.

    Args:
        database: the process's own.
        first: whether the process is the one that runs the jobs which are needed once a server.
        every_s: seconds between two runs of each.

    Returns:
        What the process stops.
    """
    jobs = Jobs(database)
    jobs.every(every_s, database.close_idle, label="closing idle connections", in_transaction=False)
    if first:
        jobs.every(
            every_s,
            _delete_expired_keys,
            database,
            jobs.stopping,
            label="deleting expired idempotency keys",
            in_transaction=False,
        )
        if database.settings.reader_url is not None:
            jobs.every(
                every_s, _ask_replica, database, label="asking the replica for its lag", in_transaction=False
            )
        if database.commit_markers is not None:
            jobs.every(every_s, delete_old_markers, label="deleting old commit markers", timeout_s=_TIMEOUT_S)
    return jobs


def _ask_replica(database: Database) -> None:
    backend = database.reader.scopes_backend
    try:
        with database.session_scope(
            label="asking the replica for its lag", read_only=True, timeout_s=_TIMEOUT_S
        ) as session:
            behind_s = backend.behind_s(session.connection())
    except DatabaseError as error:
        if not isinstance(error, PoolTimeout):  # that is the service's load, whatever the replica is at
            database.observer.behind(math.inf)
        raise
    database.observer.behind(behind_s)


def _delete_expired_keys(database: Database, stopping: threading.Event) -> None:
    deleted, batch = 0, 1
    while batch and not stopping.is_set():
        batch = database.run_in_transaction(
            delete_expired_keys, label="deleting expired keys", timeout_s=_TIMEOUT_S
        )
        deleted += batch
    if deleted:
        log.info("%d expired idempotency keys were deleted", deleted)
