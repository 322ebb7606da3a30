"""A limit of the statements that a part of a test may send."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

from db.statement_hooks import counters
from db.work.commit_marker import CommitMarkerRow
from server.pages.live.places import place_of


class SentStatement(NamedTuple):
    """A statement that was sent, and the application's line that sent it.

    ``line`` is empty where there is none: what is flushed at the end is sent by its unit of work.
    """

    sql: str
    line: str


@contextlib.contextmanager
def statements_at_most(most: int) -> Iterator[list[SentStatement]]:
    """Fail where more statements are sent in the block; those that were are listed, with their lines.

    It counts those of all units of work in this process, of requests in threads and greenlets too, and of
    sessions of `rolled_back_session`. BEGIN, COMMIT and the commit marker are none, nor are savepoints in
    such a session.

    Returns:
        The statements that were sent, growing while the block runs.

    Raises:
        AssertionError: there were more. Not where the block itself raises.
    """
    sent: list[SentStatement] = []

    def count(sql: str) -> None:
        if CommitMarkerRow.__tablename__ not in sql:
            place = place_of(_calls(sys._getframe(1)))
            line = "" if place is None else f"{place.file}:{place.line} in {place.function}: {place.text}"
            sent.append(SentStatement(" ".join(sql.split()), line))

    counters.append(count)
    try:
        yield sent
    finally:
        counters.remove(count)
    if len(sent) > most:
        listed = "\n".join(
            f"{n}. {each.sql}\n   {each.line or '(at the end of its unit of work)'}"
            for n, each in enumerate(sent, 1)
        )
        raise AssertionError(f"{len(sent)} statements were sent, and at most {most} are expected:\n{listed}")


def note_statement(sql: str) -> None:
    """Count a statement that no unit of work has sent."""
    for count in list(counters):
        count(sql)


def _calls(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
