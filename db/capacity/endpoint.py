"""An endpoint: an engine with its slots and its threads."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.util.concurrency import greenlet_spawn

from db.backend import Backend
from db.capacity.executor import Executor, ThreadExecutor
from db.capacity.limiter import AdmissionLimiter
from db.engines.idle_pool import IdlePool


class Endpoint:
    """The way to the database for one kind of work. Lives as long as its `Database`, which closes it.

    The writer and the reader are an endpoint each, with a pool and slots of its own, so that writers stuck
    behind a lock do not stop the readers.

    Args:
        engine: what units of work on the event loop use.
        executor: the driver's own.
        threads: that of units that ask for threads; the same one, where the driver blocks.
        scopes: the engine for work in the caller's own thread; the same one, but where only the loop can
            use that.
        scopes_backend: that engine's backend.
    """

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        limiter: AdmissionLimiter,
        executor: Executor,
        threads: ThreadExecutor,
        *,
        read_only: bool,
        scopes: Engine,
        scopes_backend: Backend,
    ) -> None:
        self.engine = engine
        self.backend = backend
        self.limiter = limiter
        self.executor = executor
        self.threads = threads
        self.read_only = read_only
        self.scopes = scopes
        self.scopes_backend = scopes_backend

    def close_idle(self, *, longer_than_s: float, keep: int) -> int:
        """See `IdlePool.close_idle`. Called in a thread that may wait."""

        def close(engine: Engine) -> int:
            pool = engine.pool
            if not isinstance(pool, IdlePool):
                return 0
            return pool.close_idle(longer_than_s=longer_than_s, keep=keep)

        closed = self.executor.call(close, self.engine)
        return closed if self.scopes is self.engine else closed + close(self.scopes)

    def close_surplus(self) -> None:
        """Close idle connections of scopes, where both engines have more than there are slots.

        Called at a scope's end. In a script the other engine has none, and scopes use theirs again.
        """
        own, scopes = self.engine.pool, self.scopes.pool
        if own is scopes or not (isinstance(own, IdlePool) and isinstance(scopes, IdlePool)):
            return
        surplus = own.connections + scopes.connections - self.limiter.size
        if surplus > 0:
            scopes.close_idle(longer_than_s=0, keep=max(0, scopes.checkedin() - surplus))

    async def close_on_loop(self) -> None:
        """Close what only the event loop can close. `close` follows."""
        if self.backend.is_async:
            await greenlet_spawn(self.engine.dispose)

    def close(self) -> None:
        """End the threads and close the connections. A thread that still works is left to end by itself."""
        self.threads.close(wait=not self.limiter.taken)
        if self.backend.is_async:
            self.engine.dispose(close=False)  # of a loop that has ended: they have ended with it
        self.scopes.dispose()
