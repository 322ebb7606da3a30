"""Threads that do one piece of work after another, for drivers that block."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from db.errors import Unavailable

log = logging.getLogger("onfinish.db")

R = TypeVar("R")

Report = Callable[[], object]
"""Passes on what came of a piece of work, and does not wait."""

Work = Callable[[], Report | None]
"""Its report is called when its thread is idle again: what follows from it may use that thread."""


class Threads:
    """At most ``size`` threads; one is started when work comes and none of the others is idle.

    Lives as long as its endpoint, which closes it; if dropped, its idle threads end. For use by any thread.

    Work that is accepted is done, unless it is withdrawn before it has begun; work that is refused is never
    done. `concurrent.futures.ThreadPoolExecutor` does not keep that: it queues work, then starts a thread for
    it. Where the start fails (RLIMIT_AS, pids.max) the caller gets an error, and an older thread does the
    work all the same: a COMMIT that had been reported as not applied.

    Args:
        size: how many at most.
        name: of the threads, which are numbered.
        daemon: the interpreter does not wait for their work at its exit.
    """

    def __init__(self, size: int, *, name: str, daemon: bool = False) -> None:
        self.size = size
        self.name = name
        self._daemon = daemon
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[Work] = deque()
        self._threads: list[threading.Thread] = []
        self._is_short = self._closed = False
        _open.add(self)

    def submit(self, work: Work) -> None:
        """Have work done by an idle thread, else by a new one, else by the first that becomes idle.

        Raises:
            Unavailable: there is no thread, and none could be started; or all are closed. It is never done.
        """
        with self._lock:
            if self._closed:
                raise Unavailable("the database is closed; nothing was done")
            self._queue.append(work)
            if self._idle:
                # The last to become idle, whose stack and arena are warm. It is not handed the work: another
                # may be free before it runs. Handed over, three to eight calls at once took more CPU each.
                self._idle.pop().wake.release()
                return
            # One that ran out of memory before it could do anything is gone.
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) < self.size:
                self._start_thread()
                if not self._threads:
                    self._queue.pop()
                    raise Unavailable("the server has no thread to do this in; nothing was done")

    def withdraw(self, work: Work) -> bool:
        """Take work back. Returns whether it had not begun, and so never will."""
        with self._lock:
            try:
                self._queue.remove(work)
            except ValueError:
                return False
            return True

    def close(self, *, wait: bool) -> None:
        """Accept no more work. Threads end when they have done what was accepted."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.wake.release()
            self._idle.clear()
        if wait:
            for thread in self._threads:
                thread.join()

    def __del__(self) -> None:
        self.close(wait=False)

    def _start_thread(self) -> None:
        number = len(self._threads)
        try:  # memory may run out for any of it
            thread = threading.Thread(
                target=_Worker(self).run, name=f"{self.name}_{number}", daemon=self._daemon
            )
            self._threads.append(thread)
            thread.start()
        except (RuntimeError, MemoryError) as error:
            del self._threads[number:]
            if not self._is_short:
                message = "%s: no thread could be started (%s); %d of %d run, and work waits for them"
                log.warning(message, self.name, error, number, self.size)
            self._is_short = True
        else:
            self._is_short = False

    def _next(self, worker: _Worker) -> Work | None:
        """The work that has waited longest; None where there is none, and the worker waits to be woken."""
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            if self._closed:
                worker.is_ended = True
            else:
                self._idle.append(worker)
            return None


class _Worker:
    """What one thread does. Lives as long as that thread, and holds nothing of the work that it has done."""

    __slots__ = ("_threads", "is_ended", "wake")

    def __init__(self, threads: Threads) -> None:
        self._threads = weakref.ref(threads)  # so that what is dropped is noticed
        self.is_ended = False
        self.wake = threading.Lock()
        self.wake.acquire()

    def run(self) -> None:
        """Do work until the `Threads` are closed, or dropped."""
        report: Report | None = None
        while not self.is_ended:
            work = self._find()
            if report is not None:
                self._do(report)
                report = None
            if work is not None:
                report = self._do(work)
                del work
            elif not self.is_ended:
                self.wake.acquire()

    def _find(self) -> Work | None:
        threads = self._threads()
        if threads is None:
            self.is_ended = True
            return None
        return threads._next(self)

    def _do(self, work: Callable[[], R]) -> R | None:
        try:
            return work()
        except BaseException:
            log.exception("%s: its work failed", threading.current_thread().name)
            return None


_open: weakref.WeakSet[Threads] = weakref.WeakSet()


def _end_idle_threads() -> None:
    for threads in list(_open):
        threads.close(wait=False)


# The interpreter waits for all threads at its end, and only then calls what `atexit` has. This is the one way
# to end the idle ones before, and what `concurrent.futures` uses: https://bugs.python.org/issue39812
threading._register_atexit(_end_idle_threads)  # type: ignore[attr-defined]
