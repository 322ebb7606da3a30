"""The pool of an engine: connections that were idle are pinged, and not kept for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError, TimeoutError as NoConnectionLeft
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from conf import DatabaseSettings
from db.backend import SERVER, Backend
from db.engines._sqlalchemy import AsyncioPoolInside, QueuePoolInside
from db.errors import PoolTimeout
from db.guard import guard_at_work
from db.observer import Observer

_IDLE_SINCE = "onfinish_idle_since"


class IdlePool(QueuePoolInside):
    """SQLAlchemy's queue of connections, which can close those that are idle for long.

    Lives as long as its engine. Last in, first out, so that what a peak opened stays idle at the
    far end, and is closed there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # It would be named after this module, and heard at INFO; SQLAlchemy's own are quiet unless asked for.
        self.logger = logging.getLogger(f"sqlalchemy.pool.{type(self).__name__}")

    def close_idle(self, *, longer_than_s: float, keep: int) -> int:
        """Close connections that were checked in more than ``longer_than_s`` ago, down to ``keep``.

        Returns:
            How many were closed.
        """
        since = time.monotonic() - longer_than_s
        return self.take_out(lambda record: record.info.get(_IDLE_SINCE, since) < since, keep=keep)

    def connect(self) -> PoolProxiedConnection:
        """As `Pool.connect`, with an error that says who has the connections.

        A unit of work holds a slot before it asks, and finds one, unless a function took another one.
        """
        try:
            return super().connect()
        except NoConnectionLeft:
            raise PoolTimeout(
                f"all {self.connections_max} connections are in use, by sessions, or by functions that open "
                "one beside theirs"
            ) from None


class IdleAsyncPool(IdlePool, AsyncioPoolInside):
    """The same, for an asyncio driver. It never waits, which would stop the loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"timeout": 0}))


def ping_after_idle(engine: Engine, settings: DatabaseSettings, backend: Backend) -> None:
    """Ping a connection that was idle for long, not at every checkout: it is a round trip.

    Work that is not retried pings at every checkout: a stream, a job. A request that is retried where its
    connection was gone needs no ping.

    SQLAlchemy's own pre-ping asks each time, and before it could be stopped: on a link that is dead
    without notice it waits for ever. Here the unit of work that wants the connection knows of it, and
    its deadline shuts the socket down.
    """

    @event.listens_for(engine, "checkin")
    def note_idle(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    if not settings.pool_pre_ping:
        return

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
        since = record.info.pop(_IDLE_SINCE, None)
        if since is None:
            return
        guard = guard_at_work(backend)  # none for a script's
        retries = guard is not None and guard.retries
        if retries and time.monotonic() - since < settings.pool_ping_after_s:
            return
        if guard is not None:
            guard.connecting(connection)
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError("an idle connection was gone") from error


def observe_pools(engines: Iterable[Engine], name: str, observer: Observer) -> None:
    """Report to an observer the connections of engines, and that they lead to another server than before."""
    last: str | None = None  # of all of them: each finds the new server, and it is one failover
    checked_out_at = object()  # a key of its own: an engine may have several observers

    def connected(connection: Any, record: ConnectionPoolEntry) -> None:
        nonlocal last
        observer.connected(name)
        server: str | None = record.info.get(SERVER)
        if last and server and server != last:
            observer.failover()
        last = server or last

    def closed(connection: Any, record: ConnectionPoolEntry) -> None:
        observer.disconnected(name)

    def checked_out(connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
        # Not in `info`, which is emptied when a connection is thrown away.
        _kept_of(record)[checked_out_at] = time.perf_counter()
        observer.checked_out(name)

    def checked_in(connection: Any, record: ConnectionPoolEntry) -> None:
        at = _kept_of(record).pop(checked_out_at, None)
        if at is not None:  # else it was found dead before it was checked out
            observer.checked_in(name, time.perf_counter() - at)

    for engine in engines:
        event.listen(engine, "connect", connected)
        event.listen(engine, "close", closed)
        event.listen(engine, "detach", closed)
        event.listen(engine, "checkout", checked_out)
        event.listen(engine, "checkin", checked_in)


def _kept_of(record: ConnectionPoolEntry) -> dict[Any, Any]:
    kept = record.record_info
    return {} if kept is None else kept  # None only for what was never in a pool
