"""Processes that work for the comparison, and are killed when they hang."""

from __future__ import annotations

import functools
import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from types import TracebackType
from typing import Any, Self

GRACE_S = 2.0
"""How long a process may take beyond the deadline that it keeps by itself, before it is killed."""

_END_S = 5.0

_PRELOADED = ("workers", "cost", "commit_time")


class Hung(Exception):
    """A process did not answer in time. It has been killed."""


class Ended(Exception):
    """A process ended before it had answered."""


@functools.cache
def _context() -> ForkServerContext:
    # Forked from a process that has imported everything and opened nothing: up in milliseconds, and without
    # the threads and connections of the caller.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__name__.rpartition('.')[0]}.{name}" for name in _PRELOADED])
    return context


class Worker:
    """A process that runs one function with a pipe to here. Lives until `stop`, or the end of its block.

    The pipe is the function's first argument. The function has to end when the pipe does: a parent that is
    killed leaves nothing running.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = _context().Pipe()
        self._process = _context().Process(target=_run, args=(theirs, function, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process's id. A child's id is not used again before it is joined, which is in `stop`."""
        return self._process.pid

    def receive(self, timeout_s: float) -> Any:
        """What the process sends next.

        Raises:
            Hung: nothing came in time; the process is killed.
            Ended: the process is gone.
        """
        try:
            if self.pipe.poll(timeout_s):
                return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.stop()
            raise Ended(f"a process of the comparison ended with {self._process.exitcode}") from None
        self.kill()
        raise Hung(f"no answer within {timeout_s:g} s")

    def end(self) -> None:
        """Kill it from another thread than the one that receives, whose `receive` raises `Ended`."""
        self._process.kill()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Close the pipe, and kill the process if it does not end by that."""
        self.pipe.close()
        self._process.join(_END_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(_END_S)


def _run(pipe: Connection, function: Callable[..., None], *arguments: Any) -> None:
    # Ctrl-C is handled by the parent, which closes its end of the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    function(pipe, *arguments)


def when_closed(pipe: Connection, call: Callable[[], object]) -> None:
    """Call a function, in a thread, when the other end of the pipe is closed."""

    def wait() -> None:
        try:
            while True:
                pipe.recv()
        except (EOFError, OSError):
            call()

    threading.Thread(target=wait, daemon=True).start()
