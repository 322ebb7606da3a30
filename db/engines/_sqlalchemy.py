"""Private names of SQLAlchemy that the package relies on, each with its reason; tested to be there."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import CheckConstraint, Connection, Engine
from sqlalchemy.orm import session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool


def set_connection_class(engine: Engine, connection: type[Connection]) -> None:
    """Have an engine make its connections of a class of one's own. There is no public way to name it."""
    engine._connection_cls = connection


def sessions_alive() -> int:
    """How many sessions the process has not dropped; the registry of `close_all_sessions` is private."""
    return len(session._sessions)


def is_of_a_type(check: CheckConstraint) -> bool:
    """Whether a column's type has made a CHECK, and makes it again: a Boolean or an Enum."""
    return bool(check._type_bound)


class QueuePoolInside(QueuePool):
    """SQLAlchemy's queue of connections, with what has no public way to it. Lives as long as its engine."""

    @property
    def connections_max(self) -> int:
        """How many connections it may have; `size` leaves out the overflow."""
        return self.size() + self._max_overflow

    def take_out(self, is_due: Callable[[ConnectionPoolEntry], bool], *, keep: int) -> int:
        """Close idle connections that are due, the longest idle first, down to ``keep`` idle ones.

        SQLAlchemy closes all idle connections (`dispose`) or none.

        Returns:
            How many were closed.
        """
        waiting = self._pool
        with waiting.mutex:  # type: ignore[attr-defined]  # the interface of its queues has neither
            queue = waiting.queue  # type: ignore[attr-defined]
            surplus = max(0, len(queue) - keep)
            closing = [record for record in queue if is_due(record)][:surplus]
            for record in closing:
                queue.remove(record)
        for record in closing:
            record.close()
            self._dec_overflow()
        return len(closing)


class AsyncioPoolInside(QueuePoolInside):
    """The same, for an asyncio driver: `create_engine` refuses a pool for one without this flag."""

    _is_asyncio = True
