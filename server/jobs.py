"""Background jobs of a server."""

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
"""How long a stopping server waits for a job that is under way; the process ends without it then."""

Job = Callable[[threading.Event], object]
"""Does its work, and ends early when the event is set."""


class Jobs:
    """Runs the jobs of one process, one after the other, in a thread. Lives from `start` to `stop`.

    A job that fails is retried at its next turn. The failure is logged once, and once more when the job works
    again: a database that is down for a night does not cause a line a minute.
    """

    def __init__(self, jobs: dict[str, Job], *, every_s: float) -> None:
        self._jobs = jobs
        self._every_s = every_s
        self._failing: set[str] = set()
        self._stopped = threading.Event()
        # No executor: at its exit the interpreter waits for an executor's threads, also for one that hangs.
        self._thread = threading.Thread(target=self._run, name="onfinish-jobs", daemon=True)

    def start(self) -> None:
        """Start the thread; the first turn comes after a random delay, another one in each process."""
        self._thread.start()

    async def stop(self) -> None:
        """End after the transaction that is under way. Waits for it for some seconds."""
        self._stopped.set()
        await asyncio.to_thread(self._thread.join, _END_S)
        if self._thread.is_alive():
            log.warning("a job did not end within %g s and is abandoned", _END_S)

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
        except RetryableConflict as error:  # another server's job works on the same rows, at each attempt
            log.debug("%s: will be retried: %s", name, error)
        except Exception as error:  # noqa: BLE001  # an error of one job stops neither the others nor the thread
            self._failed(name, error)
        else:
            if name in self._failing:
                self._failing.discard(name)
                log.info("%s: works again", name)

    def _failed(self, name: str, error: Exception) -> None:
        level = logging.DEBUG if name in self._failing else logging.WARNING
        self._failing.add(name)
        # An error of the database is no fault of the program: its traceback would not help.
        is_fault = not isinstance(error, DatabaseError)
        log.log(level, "%s: failed, will be retried: %s", name, error, exc_info=is_fault)


def jobs_of(database: Database, *, first: bool) -> dict[str, Job]:
    """The jobs of one process.

    Args:
        database: the process's own.
        first: whether the process is the one that runs the jobs which are needed once a server.
    """
    jobs: dict[str, Job] = {"closing idle connections": lambda stopped: database.close_idle()}
    if first:
        jobs["deleting expired idempotency keys"] = partial(_delete_expired_keys, database)
        if database.commit_markers is not None:
            jobs["deleting old commit markers"] = partial(_delete_old_markers, database)
    return jobs


def _delete_expired_keys(database: Database, stopped: threading.Event) -> None:
    deleted, batch = 0, 1
    while batch and not stopped.is_set():
        batch = database.run_in_transaction(
            delete_expired_keys, label="deleting expired keys", timeout_s=_TIMEOUT_S
        )
        deleted += batch
    if deleted:
        log.info("%d expired idempotency keys were deleted", deleted)


def _delete_old_markers(database: Database, stopped: threading.Event) -> None:
    database.run_in_transaction(delete_old_markers, label="deleting old markers", timeout_s=_TIMEOUT_S)
