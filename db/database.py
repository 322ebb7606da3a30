"""The database of one process: its writer, its reader, and the units of work that use them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Collection, Coroutine, Iterator
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db.backend import Backend, Role
from db.backends.choose import backend_for
from db.capacity.endpoint import Endpoint
from db.capacity.executor import Executor, GreenletExecutor, ThreadExecutor
from db.capacity.limiter import AdmissionLimiter
from db.capacity.threads import Threads
from db.capacity.turns import Turns
from db.engines.engine import blocking, make_engine, make_url, read_only_view
from db.engines.idle_pool import observe_pool
from db.errors import DeadlinePassed, NestedUnitOfWork, OutsideRun
from db.observer import Observer
from db.schema.state import Schema
from db.work.async_unit_of_work import AsyncUnitOfWork
from db.work.commit_marker import CommitMarkers
from db.work.unit_of_work import UnitOfWork

_STOPPERS = 4
"""Threads that cancel statements, each within half a second. A unit whose turn does not come in that time is
stopped by a cut of its link, which needs no thread."""


class Database:
    """A writer and a reader, each a `Endpoint`. Lives as long as its process; made after a fork.

    The writer runs transactions. The reader runs single statements outside of any, and the database
    itself refuses to write for it: one round trip instead of three. It may be a replica's, which has what was
    written a moment later (``database.reader_url``).
    Nothing is connected to before the first statement.

    Args:
        settings: ``DatabaseSettings(url="sqlite:///x.db")`` is enough.
        observer: who counts or watches.
    """

    def __init__(self, settings: DatabaseSettings, observer: Observer | None = None) -> None:
        self.settings = settings
        self.observer = observer or Observer()
        self._stoppers = Threads(_STOPPERS, name="onfinish-stopper")
        self.writer = self._endpoint("writer", settings, backend_for(make_url(settings), settings.pooler))
        self.backend = backend = self.writer.backend
        if backend.shares_one_connection:
            engine = read_only_view(self.writer.engine)
            limiter = self.writer.limiter
            self.reader = Endpoint(
                engine,
                backend,
                limiter,
                self._executor(backend, limiter),
                read_only=True,
                scopes=engine,
                scopes_backend=backend,
            )
        elif settings.reader_url is None:
            self.reader = self._endpoint("reader", settings, backend, self.writer.scopes_backend)
        else:
            replica = settings.for_reader()
            self.reader = self._endpoint("reader", replica, backend_for(make_url(replica), settings.pooler))
        with_markers = self.backend.has_commit_markers and settings.commit_witness
        self.commit_markers = CommitMarkers(settings, self.writer.engine) if with_markers else None
        self.schema: Schema | None = None
        self.units: weakref.WeakSet[AsyncUnitOfWork] = weakref.WeakSet()
        self.turns = Turns()
        self._scopes: set[UnitOfWork] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._holders: dict[object, str] = {}

    def expect_schema(self, revision: str, *, known: Collection[str] | None = None) -> None:
        """From now on a statement that finds no table or column is a schema that is behind, where it is.

        It is `NotMigrated` then, and not a fault of the program.

        Args:
            revision: the newest that the code knows, `db.schema.migrate.head()`.
            known: all that it knows: a schema at another one is newer, and not behind.
        """
        if not self.backend.shares_one_connection:  # else whoever serves it has made its schema
            self.schema = Schema(self.settings, revision, self.writer.engine, known)

    def unit_of_work(
        self,
        *,
        label: str = "a unit of work",
        read_only: bool = False,
        snapshot: bool = False,
        deadline_at: float | None = None,
        origin: object = None,
        retries: bool = False,
    ) -> AsyncUnitOfWork:
        """A unit of work for code on the event loop; opens nothing yet.

        As a context manager it is kept at the end, and undone where the block raises::

            async with database.unit_of_work(label="nightly job") as unit:
                await unit.run(tasks.update_task, unit.session, task_id=…, change=…)

        Args:
            label: how messages name it.
            read_only: on the reader.
            snapshot: all its reads see the database as it was at the first of them.
            deadline_at: on the clock of `time.monotonic`; past it the unit is stopped and undone.
            origin: what it is done for, a request say; kept for whoever observes.
            retries: the caller does its work again where its connection was lost (`ConnectionLost`). Else
                a connection is asked whether it lives before it is used: that is a round trip.
        """
        endpoint = self.reader if read_only else self.writer
        return AsyncUnitOfWork(
            self,
            endpoint,
            label=label,
            snapshot=snapshot,
            deadline_at=deadline_at,
            origin=origin,
            retries=retries,
        )

    @contextlib.contextmanager
    def session_scope(
        self, *, label: str = "session_scope()", read_only: bool = False, timeout_s: float | None = None
    ) -> Iterator[Session]:
        """A session for a script or a job, in a thread that may wait: kept at the end, undone on an error.

        Stands in the same queue for a place as the requests of the process do.

        Raises:
            PoolTimeout: all places stayed taken for ``database.pool_timeout_s``.
            OutsideRun: called on an event loop, which it would stop; `unit_of_work` is for there.
            NestedUnitOfWork: the caller holds a unit of work open already.
            DatabaseError: a driver's error, translated; nothing is kept then, or `OutcomeUnknown`.
        """
        if asyncio._get_running_loop() is not None:
            raise OutsideRun(
                f"{label}: session_scope() would stop the event loop; `async with database.unit_of_work()`"
            )
        endpoint = self.reader if read_only else self.writer
        worker = self.claim_here(label, endpoint.scopes_backend)
        try:
            endpoint.limiter.take_blocking(self.settings.pool_timeout_s)
            try:
                deadline_at = None if timeout_s is None else time.monotonic() + timeout_s
                unit = UnitOfWork(
                    endpoint.scopes,
                    endpoint.scopes_backend,
                    label=label,
                    read_only=read_only,
                    deadline_at=deadline_at,
                    commit_markers=self.commit_markers,
                    schema=self.schema,
                )
                self._scopes.add(unit)
                self.observer.opened(unit)
                try:
                    yield unit.session
                except DBAPIError as error:
                    unit.settle(keep=False)
                    raise unit.translated(error) from error
                except BaseException:
                    unit.settle(keep=False)
                    raise
                else:
                    unit.settle(keep=True)
                finally:
                    self._scopes.discard(unit)
                    self.observer.ended(unit)
            finally:
                endpoint.limiter.give_back()
        finally:
            self.unclaim(worker)

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Stop what is still open, and close all connections. Call it on the event loop that used them.

        Units of work that are open are undone; what hangs longer than ``grace_s`` is left to its thread.
        """
        for unit in list(self.units):
            unit.cancel(DeadlinePassed("the service is shutting down; nothing of this request was kept"))
        await self.idle(grace_s)
        for endpoint in {self.writer, self.reader}:
            await endpoint.close_on_loop()
        await asyncio.get_running_loop().run_in_executor(None, self.dispose)

    def dispose(self) -> None:
        """Close all connections and end the threads, from a script that has no event loop."""
        for endpoint in {self.writer, self.reader}:
            endpoint.close()
        self._stoppers.close(wait=not self.units)
        if self.commit_markers is not None:
            self.commit_markers.close()

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no unit of work is open and nothing follows from one. Returns whether it came to be."""
        give_up_at = time.monotonic() + timeout_s
        while (self.units or self.tasks) and (left_s := give_up_at - time.monotonic()) > 0:
            if self.units:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._idle.wait(), left_s)
            else:
                await asyncio.wait(self.tasks, timeout=left_s)
        return not (self.units or self.tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what follows from a request. Its task is held until its end: what nobody holds may vanish."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def close_idle(self) -> int:
        """Close connections that nobody has used for ``pool_idle_s``, down to ``pool_min`` a lane.

        Called now and then by whoever keeps the process alive, in a thread that may wait. Returns how many
        were closed.
        """
        idle_s, keep = self.settings.pool_idle_s, self.settings.pool_min
        if idle_s is None:
            return 0
        return sum(
            endpoint.close_idle(longer_than_s=idle_s, keep=keep) for endpoint in (self.writer, self.reader)
        )

    @property
    def open_units(self) -> list[AsyncUnitOfWork | UnitOfWork]:
        """The units of work that are open, of requests and of scopes, oldest first. For the event loop."""
        units: list[AsyncUnitOfWork | UnitOfWork] = [*self.units, *list(self._scopes)]
        return sorted(units, key=lambda unit: unit.opened_at)

    # -- which units are open, and who holds a place: to wait for a second one while one holds one is a
    #    deadlock with a full pool

    def opened(self, unit: AsyncUnitOfWork) -> None:
        """Note that a unit of work is open."""
        self.units.add(unit)
        self._idle.clear()
        self.observer.opened(unit)

    def ended(self, unit: AsyncUnitOfWork) -> None:
        """Note that a unit of work has given everything back."""
        self.units.discard(unit)
        if not self.units:
            self._idle.set()
        self.observer.ended(unit)

    def dropped(self, endpoint: Endpoint, holder: object) -> None:
        """Take back what a unit of work held that nobody settled."""
        self.unclaim(holder)
        endpoint.limiter.give_back()
        if not self.units:
            self._idle.set()

    def claim(self, holder: object, label: str) -> None:
        """Note that a task or thread wants a place.

        Raises:
            NestedUnitOfWork: it holds one already.
        """
        held = self._holders.get(holder)
        if held is not None:
            raise NestedUnitOfWork(
                f"{label}: a second unit of work was begun while {held} is open in the same task "
                "or thread; with all places taken both would wait for ever. Work in that one's session, "
                "or after it: `self.in_new_transaction(…)`"
            )
        self._holders[holder] = label

    def claim_here(self, label: str, backend: Backend) -> object:
        """Note that the calling thread or greenlet works in a unit of work; returns what to `unclaim`."""
        worker = backend.worker()
        self.claim(worker, label)
        return worker

    def unclaim(self, holder: object) -> None:
        """Forget a holder."""
        self._holders.pop(holder, None)

    def _endpoint(
        self, role: Role, settings: DatabaseSettings, backend: Backend, scopes_backend: Backend | None = None
    ) -> Endpoint:
        engine = make_engine(settings, role, backend)
        scopes = blocking(settings)
        if scopes_backend is None:
            scopes_backend = backend_for(make_url(scopes), settings.pooler) if backend.is_async else backend
        own = make_engine(scopes, role, scopes_backend) if backend.is_async else engine
        if type(self.observer) is not Observer:
            for each in {engine, own}:
                observe_pool(each, role, self.observer)
        limiter = AdmissionLimiter(sum(backend.pool_size(settings, role)), name=role, observer=self.observer)
        return Endpoint(
            engine,
            backend,
            limiter,
            self._executor(backend, limiter),
            read_only=role == "reader",
            scopes=own,
            scopes_backend=scopes_backend,
        )

    def _executor(self, backend: Backend, limiter: AdmissionLimiter) -> Executor:
        if backend.is_async:
            return GreenletExecutor()
        # As many threads as places: a unit of work that has a place runs at once.
        return ThreadExecutor(Threads(limiter.size, name=f"onfinish-{limiter.name}"), self._stoppers)
