"""The pool of an engine: connections that rested are asked whether they live, and not kept for ever."""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from conf import DatabaseSettings
from db.watch import watch_at_work

_RESTING_SINCE = "onfinish_resting_since"


class RestingPool(QueuePool):
    """SQLAlchemy's queue of connections, which can close those that have rested for long.

    Lives as long as its engine. Last in, first out, so that what a peak opened comes to rest at the
    far end, and is closed there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # It would be named after this module, and heard at INFO; SQLAlchemy's own are quiet unless asked for.
        self.logger = logging.getLogger(f"sqlalchemy.pool.{type(self).__name__}")

    def close_resting(self, *, longer_than_s: float, keep: int) -> int:
        """Close connections that were given back more than ``longer_than_s`` ago, down to ``keep``.

        Returns:
            How many were closed.
        """
        since = time.monotonic() - longer_than_s
        waiting: Any = self._pool  # SQLAlchemy has no public way to the connections at rest
        with waiting.mutex:
            surplus = max(0, len(waiting.queue) - keep)
            rested = [record for record in waiting.queue if record.info.get(_RESTING_SINCE, since) < since]
            closing = rested[:surplus]
            for record in closing:
                waiting.queue.remove(record)
        for record in closing:
            record.close()
            self._dec_overflow()
        return len(closing)


def ask_after_rest(engine: Engine, settings: DatabaseSettings) -> None:
    """Ask a connection whether it lives when it has rested, not at every checkout: it is a round trip.

    SQLAlchemy's own pre-ping asks each time, and before anybody could stop it: on a link that is dead
    without a word it waits for ever. Here the unit of work that wants the connection knows of it, and
    its deadline cuts the link.
    """

    @event.listens_for(engine, "checkin")
    def rests(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_RESTING_SINCE] = time.monotonic()

    if not settings.pool_pre_ping:
        return

    @event.listens_for(engine, "checkout")
    def wakes(connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
        since = record.info.pop(_RESTING_SINCE, None)
        if since is None or time.monotonic() - since < settings.pool_ping_after_s:
            return
        watch = watch_at_work()
        if watch is not None:
            watch.connected(connection)
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError("a connection at rest was gone") from error
