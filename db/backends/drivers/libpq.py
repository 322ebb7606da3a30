"""Cancel a statement through the libpq that psycopg2 carries, without stopping the process.

``psycopg2.connection.cancel()`` holds the interpreter's lock while it connects and until the server
closes that connection: on a dead link, or a peer that accepts and never answers, every thread of the
process stood still. ``ctypes`` gives the lock up round each call, and libpq's own asynchronous form
(17 and newer, https://www.postgresql.org/docs/current/libpq-cancel.html) can be given a limit. It
uses TLS where the connection does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import select
import time
from collections.abc import Generator
from typing import Any

from db.backends.drivers.descriptors import ready

_FAILED, _READING, _WRITING, _OK = range(4)  # PostgresPollingStatusType


@functools.cache
def _libpq() -> ctypes.CDLL | None:
    """The library psycopg2 is linked with; None where it is older than 17."""
    import psycopg2

    # Symbols are looked up in the extension and in what it was linked with.
    library = ctypes.CDLL(psycopg2._psycopg.__file__)
    if not hasattr(library, "PQcancelCreate"):
        return None
    library.PQcancelCreate.restype = ctypes.c_void_p
    library.PQcancelCreate.argtypes = [ctypes.c_void_p]
    for name in ("PQcancelStart", "PQcancelPoll", "PQcancelSocket"):
        function = getattr(library, name)
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.c_void_p]
    library.PQcancelFinish.restype = None
    library.PQcancelFinish.argtypes = [ctypes.c_void_p]
    return library


def cancel(connection: Any, *, timeout_s: float) -> bool:
    """Ask the server to cancel what ``connection`` runs, from another thread than the one that waits.

    Args:
        connection: a psycopg2 connection that is not being closed meanwhile.
        timeout_s: how long to try.

    Returns:
        Whether the server has taken the request. Whether a statement ran is not known by it.
    """
    library = _libpq()
    if library is None:
        connection.cancel()
        return True
    give_up_at = time.monotonic() + timeout_s
    request = _Request(library, connection)
    with contextlib.closing(request.waits()) as waits:
        for fd, for_writing in waits:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                return False
            poll = select.poll()
            poll.register(fd, select.POLLOUT if for_writing else select.POLLIN)
            poll.poll(left_s * 1000)
            if time.monotonic() >= give_up_at:
                return False
    return request.is_taken


async def cancel_on_loop(connection: Any, *, timeout_s: float) -> bool:
    """As `cancel`, on the event loop. The connection may be closed while this waits."""
    library = _libpq()
    if library is None:
        await asyncio.to_thread(connection.cancel)
        return True
    request = _Request(library, connection)
    with contextlib.closing(request.waits()) as waits, contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for fd, for_writing in waits:
                await ready(fd, for_writing=for_writing)
    return request.is_taken


class _Request:
    """A request to cancel, over a connection of its own. Lives until its `waits` are over."""

    def __init__(self, library: ctypes.CDLL, connection: Any) -> None:
        self.is_taken = False
        self._library = library
        self._request = library.PQcancelCreate(connection.pgconn_ptr)  # a copy of where it is connected to

    def waits(self) -> Generator[tuple[int, bool], None, None]:
        """The waits that it takes: for which descriptor, and whether that is to be written to."""
        library, request = self._library, self._request
        try:
            state = _WRITING if library.PQcancelStart(request) else _FAILED
            while state not in (_OK, _FAILED):
                fd = library.PQcancelSocket(request)
                if fd < 0:
                    return
                yield fd, state == _WRITING
                state = library.PQcancelPoll(request)
            self.is_taken = state == _OK
        finally:
            library.PQcancelFinish(request)
