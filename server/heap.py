"""The C library's heap, of which a server with many threads would have many."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8
"""https://man7.org/linux/man-pages/man3/mallopt.3.html"""

_ARENAS = 2
"""The first is the main thread's. Python's lock lets one thread allocate at a time, so more do not pay."""


def keep_few_arenas() -> None:
    """Have all threads share two arenas of the allocator, where glibc would make eight for each core.

    Each thread would come to one of its own, keep in it what is freed, and leave the holes to itself: a
    connection is made now by one thread and now by another, and with every round in which all are made anew
    (``database.pool_recycle_s``) the process grew. Has to be called before there is a second thread; does
    nothing where whoever starts the process has chosen (``MALLOC_ARENA_MAX``), or with another C library.
    """
    chosen = "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not chosen:
        mallopt(_M_ARENA_MAX, _ARENAS)
