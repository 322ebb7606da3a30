"""Notices that a COMMIT was not confirmed by the synchronous standby that it waited for.

Where that wait is cancelled PostgreSQL answers COMMIT as a success, with a WARNING before it. Its SQLSTATE is
any warning's, a trigger's for one (01000), and its text is in the language of the server's ``lc_messages``;
the function of the server that reports it is the same in all.
https://github.com/postgres/postgres/blob/master/src/backend/replication/syncrep.c
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

_REPORTED_BY = "SyncRepWaitForLSN"
_SOURCE_FUNCTION = ord("R")  # PG_DIAG_SOURCE_FUNCTION

unconfirmed: set[int] = set()
"""The addresses of connections whose last COMMIT had such a notice, until `take`. Nearly always empty."""


def note(address: int, reported_by: str | None) -> None:
    """Note a notice of the connection at an address, where it is such a one."""
    if reported_by == _REPORTED_BY:
        unconfirmed.add(address)


def take(address: int) -> bool:
    """Whether there was such a notice of the connection at an address since this was asked last."""
    if address not in unconfirmed:
        return False
    unconfirmed.discard(address)
    return True


def watch_libpq(address: int | None) -> None:
    """Have the notices of a connection of psycopg2's noted, and handed to psycopg2 as before.

    Args:
        address: of libpq's connection, ``connection.pgconn_ptr``.
    """
    if address is not None:
        take(address)  # of one that had the address before
        _watch()(address)


@functools.cache
def _watch() -> Callable[[int], None]:
    import psycopg2

    # psycopg2 keeps a notice's text alone. Symbols are looked up in it and in what it was linked with.
    library = ctypes.CDLL(psycopg2._psycopg.__file__)
    receiver_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    field_of, set_receiver = library.PQresultErrorField, library.PQsetNoticeReceiver
    field_of.restype, field_of.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int]
    set_receiver.restype = ctypes.c_void_p
    set_receiver.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    libpqs_own: list[Any] = []

    def receive(address: int, notice: int) -> None:
        function: bytes | None = field_of(notice, _SOURCE_FUNCTION)
        note(address, None if function is None else function.decode())
        libpqs_own[0](address, notice)

    receiver = receiver_type(receive)

    def watch(address: int) -> None:
        before = set_receiver(address, ctypes.cast(receiver, ctypes.c_void_p), address)
        if not libpqs_own:  # the same for all connections
            libpqs_own.append(receiver_type(before))

    return watch
