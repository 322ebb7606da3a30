"""A lane: an engine with its places and its threads."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.util.concurrency import greenlet_spawn

from db.backend import Dialect
from db.capacity.executor import Hops
from db.capacity.limiter import Places
from db.engines.idle_pool import RestingPool


class Lane:
    """The way to the database for one kind of work. Lives as long as its `Database`, which closes it.

    The writer and the reader are a lane each, with a pool and places of its own, so that writers stuck
    behind a lock do not stop the readers.

    Args:
        engine: what units of work on the event loop use.
        scopes: the engine for work in the caller's own thread; the same one, but where only the loop can
            use that.
        scopes_dialect: that engine's ways.
    """

    def __init__(
        self,
        engine: Engine,
        dialect: Dialect,
        places: Places,
        hops: Hops,
        *,
        read_only: bool,
        scopes: Engine,
        scopes_dialect: Dialect,
    ) -> None:
        self.engine = engine
        self.dialect = dialect
        self.places = places
        self.hops = hops
        self.read_only = read_only
        self.scopes = scopes
        self.scopes_dialect = scopes_dialect

    def close_resting(self, *, longer_than_s: float, keep: int) -> int:
        """See `RestingPool.close_resting`. Called in a thread that may wait."""

        def close(engine: Engine) -> int:
            pool = engine.pool
            if not isinstance(pool, RestingPool):
                return 0
            return pool.close_resting(longer_than_s=longer_than_s, keep=keep)

        closed = self.hops.call(close, self.engine)
        return closed if self.scopes is self.engine else closed + close(self.scopes)

    async def close_on_loop(self) -> None:
        """Close what only the event loop can close. `close` follows."""
        if self.dialect.is_async:
            await greenlet_spawn(self.engine.dispose)

    def close(self) -> None:
        """End the threads and close the connections. A thread that still works is left to its work."""
        self.hops.close(wait=not self.places.taken)
        if self.dialect.is_async:
            self.engine.dispose(close=False)  # of a loop that has ended: they have ended with it
        self.scopes.dispose()
