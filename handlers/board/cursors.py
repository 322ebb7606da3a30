"""Cursors: where a list goes on, as a client carries it from one page to the next."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from datetime import UTC, datetime, timedelta

from db.board.tasks import Position, TaskFilter
from handlers.lifecycle.errors import Problem

CURSOR = "^[A-Za-z0-9_-]{43}$"
FOREIGN = "the cursor belongs to a list with other filters: start again without it"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT = struct.Struct(">q16s8s")  # microseconds since the epoch, the task's id, a digest of the filters


def cursor_of(position: Position, where: TaskFilter) -> str:
    """The cursor of a position in the list of some filters."""
    microseconds = (position.create_time - _EPOCH) // timedelta(microseconds=1)
    packed = _LAYOUT.pack(microseconds, bytes.fromhex(position.id), _digest(where))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def position_of(cursor: str, where: TaskFilter) -> Position:
    """The position that a cursor stands for.

    Raises:
        Problem: 400 where it cannot be read, or belongs to other filters.
    """
    unreadable = Problem(400, "the cursor cannot be read: take next_cursor of the page before, as it is")
    if not re.fullmatch(CURSOR, cursor):
        raise unreadable
    microseconds, task_id, digest = _LAYOUT.unpack(base64.urlsafe_b64decode(cursor + "="))
    if digest != _digest(where):
        raise Problem(400, FOREIGN)
    try:
        return Position(_EPOCH + timedelta(microseconds=microseconds), task_id.hex())
    except OverflowError:
        raise unreadable from None


def _digest(where: TaskFilter) -> bytes:
    """Distinguishes filters. It is no seal: a made-up cursor shows nothing that the list does not."""
    return hashlib.blake2b(repr(where).encode(), digest_size=8).digest()
