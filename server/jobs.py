"""Work that a server does by itself, beside the requests."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from functools import partial

from db import Database
from db.errors import DatabaseError, RetryableConflict
from db.idempotency import delete_expired_keys
from db.work.commit_marker import delete_old_markers

log = logging.getLogger("onfinish.jobs")

_TIMEOUT_S = 30.0
"""How long one transaction of a job may take."""

_END_S = 5.0
"""How long the end of the server waits for a job that is under way; the thread goes with the process then."""

Job = Callable[[threading.Event], object]
"""Does its work, and ends early when the event is set."""


class Jobs:
    """Does the jobs of one process, one after the other, in a thread. Lives from `start` to `stop`.

    A job that fails is tried again at its next turn. It is logged once, and once more when it works again:
    a database that is down for a night is no reason for a line a minute.
    """

    def __init__(self, jobs: dict[str, Job], *, every_s: float) -> None:
        self._jobs = jobs
        self._every_s = every_s
        self._failing: set[str] = set()
        self._stopped = threading.Event()
        # No executor: the interpreter waits for its threads at the end, also for one that hangs.
        self._thread = threading.Thread(target=self._run, name="onfinish-jobs", daemon=True)

    def start(self) -> None:
        """Begin; the first turn comes after a while, at another time in each process."""
        self._thread.start()

    async def stop(self) -> None:
        """End after the transaction that is under way. Waits some seconds for it, not longer."""
        self._stopped.set()
        await asyncio.to_thread(self._thread.join, _END_S)
        if self._thread.is_alive():
            log.warning("a job did not end within %g s and is left behind", _END_S)

    def _run(self) -> None:
        wait_s = self._every_s * random.uniform(0.5, 1.0)
        while not self._stopped.wait(wait_s):
            for name, job in self._jobs.items():
                if not self._stopped.is_set():
                    self._do(name, job)
            wait_s = self._every_s

    def _do(self, name: str, job: Job) -> None:
        try:
            job(self._stopped)
        except RetryableConflict as error:  # another server's job was at the same rows
            log.debug("%s: is tried again: %s", name, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other jobs and the next turn go on
            self._failed(name, error)
        else:
            if name in self._failing:
                self._failing.discard(name)
                log.info("%s: works again", name)

    def _failed(self, name: str, error: Exception) -> None:
        level = logging.DEBUG if name in self._failing else logging.WARNING
        self._failing.add(name)
        # What the database itself says is no fault of the program's, and has no use for a stack.
        stack = not isinstance(error, DatabaseError)
        log.log(level, "%s: failed, and is tried again: %s", name, error, exc_info=stack)


def jobs_of(database: Database, *, first: bool) -> dict[str, Job]:
    """The jobs of one process.

    Args:
        database: whose.
        first: whether it is the one of its server's processes that does what need not be done by each.
    """
    jobs: dict[str, Job] = {"closing idle connections": lambda stopped: database.close_idle()}
    if first:
        jobs["deleting expired idempotency keys"] = partial(_delete_expired_keys, database)
        if database.commit_markers is not None:
            jobs["deleting old commit witnesses"] = partial(_delete_old_witnesses, database)
    return jobs


def _delete_expired_keys(database: Database, stopped: threading.Event) -> None:
    deleted, batch = 0, 1
    while batch and not stopped.is_set():
        with database.session_scope(label="deleting expired keys", timeout_s=_TIMEOUT_S) as session:
            batch = delete_expired_keys(session)
        deleted += batch
    if deleted:
        log.info("%d expired idempotency keys were deleted", deleted)


def _delete_old_witnesses(database: Database, stopped: threading.Event) -> None:
    with database.session_scope(label="deleting old witnesses", timeout_s=_TIMEOUT_S) as session:
        delete_old_markers(session)
