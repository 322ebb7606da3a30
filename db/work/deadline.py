"""The deadline of a unit of work that runs in its caller's own thread."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterator

from db.capacity.executor import CANCEL_EVERY_S, SHUTDOWN_AFTER_S, SHUTDOWN_EVERY_S
from db.capacity.threads import Threads
from db.errors import DeadlinePassed, Unavailable
from db.guard import StatementGuard
from db.work.unit_of_work import UnitOfWork

log = logging.getLogger("onfinish.db")


@contextlib.contextmanager
def enforced_deadline(unit: UnitOfWork, threads: Threads) -> Iterator[None]:
    """End what a unit of work does when its deadline passes, as `Call.end` does for one of the event loop.

    The running statement is cancelled; what does not end by that has its socket shut down. To be left when
    the unit is settled. Without a deadline this does nothing.

    Args:
        unit: not used yet.
        threads: where the deadline is waited for: one for each unit with a deadline.

    Raises:
        Unavailable: there is no thread for it. Nothing was done, and the unit is settled.
    """
    if unit.guard.deadline_at is None:
        yield
        return
    over = threading.Event()
    try:
        threads.submit(functools.partial(_wait_and_end, unit.guard, over))
    except Unavailable:
        unit.settle(keep=False)
        raise
    try:
        yield
    finally:
        over.set()


def _wait_and_end(guard: StatementGuard, over: threading.Event) -> None:
    if over.wait(guard.seconds_left()):
        return
    guard.request_cancel(DeadlinePassed())
    cut_at = time.monotonic() + SHUTDOWN_AFTER_S
    while (left_s := cut_at - time.monotonic()) > 0:
        heard = guard.cancel_statement()
        if over.wait(min(CANCEL_EVERY_S, left_s)):
            return
        if heard is False:
            break
    log.warning("%s: it did not end in time; its connection is cut", guard.label)
    while not guard.shutdown_socket() and not over.wait(SHUTDOWN_EVERY_S):
        pass
