"""Non-blocking output of log records to a reader that may be slow or stalled."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

KEPT_MAX_BYTES = 256 * 1024
"""Some two thousand access lines: what arrives while a reader restarts."""

_IDLE_S = 1.0
"""How long the thread waits for more records before it ends. Where every record goes through the thread, it
would otherwise be started for each."""

Write = Callable[[bytes], int]


class Outlet:
    """Writes to a pipe, a socket or a terminal, and never waits for its reader.

    Lives as long as its handler, which closes it. What can be written at once, the caller writes. What cannot
    is queued, up to a limit, and written by a thread that exists only then: otherwise every thread that logs
    would wait for a stalled reader, the event loop first. Beyond the limit records are dropped and counted,
    and the count is logged where they are missing.

    Calls of `write` may not overlap: the handler's lock ensures that. In a forked process it starts empty:
    the thread, and what it was about to write, belong to the parent.

    Args:
        fd: where to write. It stays open, and its blocking mode is not changed: other processes may share it.
        gap: makes the record that replaces so many dropped ones.
    """

    def __init__(self, fd: int, *, gap: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._gap = gap
        self._closing = contextlib.ExitStack()
        self._write_at_once = _never_waiting(fd, self._closing)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._missing = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def write(self, record: bytes) -> None:
        """Write a record, queue it for the thread, or drop and count it.

        Raises:
            OSError: it cannot be written, and never will: the reader is gone.
        """
        if os.getpid() != self._pid:
            self._begin()
        if not self._kept_bytes:
            try:
                written = self._write_at_once(record)
            except BlockingIOError:
                written = 0
            if written == len(record):
                return
            record = record[written:]
        with self._changed:
            # After a gap, half of the room has to be free first: else every second record would be a gap.
            room = KEPT_MAX_BYTES // (2 if self._missing else 1)
            if self._kept_bytes and self._kept_bytes + len(record) > room:
                self._missing += 1
                return
            self._keep_gap()
            self._keep(record)
            if self._thread is None:
                thread = threading.Thread(target=self._write_kept, name="onfinish-log", daemon=True)
                with contextlib.suppress(RuntimeError):  # none can be started: the next record tries again
                    thread.start()
                    self._thread = thread

    def flush(self, timeout_s: float) -> None:
        """Wait until all is written, but not longer than ``timeout_s``."""
        if os.getpid() == self._pid:
            with self._changed:
                self._changed.wait_for(lambda: not self._kept_bytes, timeout_s)

    def close(self) -> None:
        """Release its resources. Queued records are lost; a thread that waits for the reader is abandoned."""
        if os.getpid() == self._pid:
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()
        self._closing.close()

    def _keep(self, record: bytes) -> None:
        self._kept.append(record)
        self._kept_bytes += len(record)
        self._changed.notify_all()

    def _keep_gap(self) -> None:
        if self._missing:
            missing, self._missing = self._missing, 0
            self._keep(self._gap(missing))

    def _write_kept(self) -> None:
        """In the thread: write the queued records, waiting for the reader."""
        while (record := self._next()) is not None:
            with contextlib.suppress(OSError):  # the reader is gone: `write` raises from now on
                _write_all(self._fd, record)
            with self._changed:
                self._kept_bytes -= len(record)
                if not self._kept_bytes:
                    self._keep_gap()
                self._changed.notify_all()

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._kept or self._is_closed, _IDLE_S)
            if self._kept:
                return self._kept.popleft()
            self._thread = None
            return None


def _never_waiting(fd: int, closing: contextlib.ExitStack) -> Write:
    """A function that writes as much as the reader has room for, and does not wait for more.

    The descriptor itself cannot be made non-blocking: that is a property of the open file, which the shell
    and other processes share. So the file is opened once more.
    """
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        own = closing.enter_context(socket.socket(fileno=os.dup(fd)))
        return lambda record: own.send(record, socket.MSG_DONTWAIT)
    if not os.get_blocking(fd):
        return partial(os.write, fd)
    try:
        opened = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # another user's file, or no /proc: the thread writes all
        return lambda record: 0
    closing.callback(os.close, opened)
    return partial(os.write, opened)


def _write_all(fd: int, record: bytes) -> None:
    while record:
        try:
            record = record[os.write(fd, record) :]
        except BlockingIOError:  # another process has made it non-blocking
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()
