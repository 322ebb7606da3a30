"""Work of a process by itself: functions that are called every so many seconds, each run a unit of work."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy.orm import Session

from db.database import Database
from db.errors import DatabaseError, RetryableConflict, UsageError
from db.work.unit_of_work import name_of

log = logging.getLogger("onfinish.jobs")

_JITTER = 0.1
"""By how much of its interval a run comes sooner or later: processes that start together spread."""

_LONGEST_S = 366 * 86_400
"""No thread can wait without end; NaN would not wait at all."""


class Jobs:
    """The jobs of one process, each in a thread of its own. Lives until `stop`; made after a fork.

    For any process that has a `Database`, with an event loop or without::

        jobs = Jobs(database)
        jobs.every(60, delete_old_orders, days=30, alone=True)
        ...
        await jobs.stop()  # before ``await database.close()``

    A job whose run fails is run again at its next turn. The failure is logged once, and once more when the
    job works again: a database that is down for a night does not cause a line a minute.
    """

    def __init__(self, database: Database) -> None:
        self.stopping = threading.Event()
        """Set by `stop`: for a function that works for long, and ends early then."""
        self._database = database
        self._threads: list[threading.Thread] = []

    def every(
        self,
        seconds: float,
        function: Callable[..., object],
        /,
        *args: object,
        label: str | None = None,
        alone: bool = False,
        timeout_s: float | None = 30.0,
        in_transaction: bool = True,
        **kwargs: object,
    ) -> None:
        """Call ``function(session, *args, **kwargs)`` every so many seconds, by `run_in_transaction`.

        Committed when it returns; retried, in a new session, as the database's `retry_policy` has it. A run
        begins so many seconds after the end of the one before, give or take a tenth, so a job never overlaps
        itself in its process; the first comes after half of that at least, at random.

        Args:
            seconds: from the end of a run to the begin of the next, above 0, at most a year.
            function: a plain function that takes the session first; it may block.
            label: how messages name the job; None for the function's name.
            alone: of all processes at this database, one at a time runs the job of this label, from its begin
                until its COMMIT; another one's run is left out meanwhile. It does not limit how often:
                every process has its turns. By an advisory lock of the transaction on PostgreSQL, and
                ``GET_LOCK`` on MySQL and MariaDB, which in a cluster is known to its node alone, and whose
                connection is closed after the run; on SQLite a run waits for the file's write lock.
            timeout_s: how long a run may take with all its attempts; then its statement is cancelled, and its
                work rolled back. None for no limit.
            in_transaction: False for a function that is called without a session, for work that is no
                transaction, or several: it calls `database.run_in_transaction` itself, and has no time limit.

        Raises:
            ValueError: ``seconds`` is none of these.
            UsageError: the function is async; ``alone`` was asked for without a transaction; or the jobs
                have been stopped.
        """
        label = label or name_of(function)
        if not 0 < seconds <= _LONGEST_S:
            raise ValueError(
                f"{label}: seconds is the time between two runs, above 0 and at most a year: {seconds:g}"
            )
        if self.stopping.is_set():
            raise UsageError(f"{label}: the jobs of this process have been stopped")
        if inspect.iscoroutinefunction(function):
            raise UsageError(f"{label}: is an async function; a job is a plain one, called in a thread")
        if alone and not in_transaction:
            raise UsageError(f"{label}: `alone` lasts as long as a transaction, and the job has none")

        def work(session: Session) -> object:
            if alone and not self._database.backend.takes_lock(session.connection(), label):
                log.debug("%s: is run by another process", label)
                return None
            return function(session, *args, **kwargs)

        run: Callable[[], object] = partial(function, *args, **kwargs)
        if in_transaction:
            run = partial(self._database.run_in_transaction, work, label=label, timeout_s=timeout_s)
        # No executor: at its exit the interpreter waits for an executor's threads, also for one that hangs.
        thread = threading.Thread(
            target=partial(self._repeat, seconds, run, label), name=f"onfinish-job {label}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    async def stop(self, within_s: float = 5.0) -> None:
        """Begin no run any more, and wait for those under way; what takes longer ends with the process."""
        self.stopping.set()
        end_at = time.monotonic() + within_s
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, end_at - time.monotonic()))
            if thread.is_alive():
                log.warning("%s: did not end within %g s and is abandoned", thread.name, within_s)

    def _repeat(self, seconds: float, run: Callable[[], object], label: str) -> None:
        fails = False
        wait_s = seconds * random.uniform(0.5, 1.0)
        while not self.stopping.wait(wait_s):
            wait_s = seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
            try:
                run()
            except RetryableConflict as error:  # at each attempt: others work on the same rows
                log.info("%s: failed, will be retried: %s", label, error)
            except BaseException as error:  # no error ends the thread
                # An error of the database is no fault of the program: its traceback would not help.
                log.log(
                    logging.DEBUG if fails else logging.WARNING,
                    "%s: failed, will be retried: %s",
                    label,
                    error,
                    exc_info=not isinstance(error, DatabaseError),
                )
                fails = True
            else:
                if fails:
                    log.info("%s: works again", label)
                fails = False
