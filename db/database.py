"""The database of one process: its writer, its reader, and the units of work that use them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import sys
import time
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import Engine, MetaData, Pool
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db.backend import Backend, Role
from db.backends.choose import backend_for
from db.capacity.endpoint import Endpoint
from db.capacity.executor import (
    Executor,
    GreenletExecutor,
    LoopThreadExecutor,
    ThreadCall,
    ThreadExecutor,
    nothing_follows,
)
from db.capacity.left_commits import LeftCommits
from db.capacity.limiter import AdmissionLimiter
from db.capacity.registry import OpenUnit, UnitRegistry
from db.capacity.threads import Threads
from db.capacity.turns import Turns
from db.engines.engine import blocking, make_engine, make_url, read_only_view
from db.engines.idle_pool import observe_pools
from db.errors import DeadlinePassed, OutsideRun, UsageError
from db.guard import StatementGuard
from db.observer import ObservedUnit, Observer, Observers
from db.retry import RetryPolicy, reason_of
from db.schema.state import Schema
from db.work.async_unit_of_work import AsyncUnitOfWork
from db.work.commit_marker import CommitMarkers
from db.work.deadline import enforced_deadline
from db.work.read_after import ReadAfterUnit
from db.work.session import SessionMaker
from db.work.unit_of_work import UnitOfWork, call_plain, name_of
from db.written import WriteTokens, Written

log = logging.getLogger("onfinish.db")

R = TypeVar("R")

_STOPPERS = 4
"""Threads that cancel statements, each within half a second. A unit whose turn does not come in that time is
stopped by a shutdown of its socket, which needs no thread."""

_BESIDE = 8
"""Threads for plain functions that follow a commit; those that find none free wait for their turn."""

_IDLE_LOOK_S = 0.005
"""How often `Database.idle` looks whether anything is open."""

databases: weakref.WeakSet[Database] = weakref.WeakSet()
"""Those of this process, for the check that a test has closed its own."""


class Database:
    """A writer and a reader, each an `Endpoint`. Lives as long as its process; made after a fork.

    The writer runs transactions. The reader runs single statements outside of any, and the database
    itself refuses to write for it: one round trip instead of three. It may be a replica's, which has what was
    written a moment later (``database.reader_url``).
    Nothing is connected to before the first statement.

    Args:
        settings: ``DatabaseSettings(url="sqlite:///x.db")`` is enough.
        observer: called at what happens, for metrics.
        session_class: an application's own subclass of `Session`, SQLModel's for one.
        session_options: further arguments of that class, such as ``autoflush=False``.

    Raises:
        UsageError: an option that the unit of work decides, such as ``expire_on_commit``.

    ``retry_policy``: which errors are retried, of requests, of messages and by `run_in_transaction`. An
    application may set another one, before it serves.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        observer: Observer | None = None,
        *,
        session_class: type[Session] = Session,
        **session_options: Any,
    ) -> None:
        self.settings = settings
        databases.add(self)
        self.sessions = SessionMaker(session_class, session_options)
        self.observer = Observer()
        self.retry_policy = RetryPolicy(settings.attempts_max)
        self._stoppers = Threads(_STOPPERS, name="onfinish-stopper")
        self._beside = Threads(_BESIDE, name="onfinish-beside", daemon=True)
        # As many as there are scopes with a time limit.
        self._deadlines = Threads(sys.maxsize, name="onfinish-deadline", daemon=True)
        self.writer = self._endpoint(
            "writer", settings, backend_for(make_url(settings), settings.pooler, settings.executor)
        )
        self.backend = backend = self.writer.backend
        if backend.not_promised:
            log.warning("%s: %s", backend.url.get_backend_name(), backend.not_promised)
        if backend.shares_one_connection:
            engine = read_only_view(self.writer.engine)
            limiter = self.writer.limiter
            self.reader = Endpoint(
                engine,
                backend,
                limiter,
                *self._executors(backend, limiter),
                read_only=True,
                scopes=engine,
                scopes_backend=backend,
            )
        elif settings.reader_url is None:
            self.reader = self._endpoint("reader", settings, backend, self.writer.scopes_backend)
        else:
            replica = settings.for_reader()
            self.reader = self._endpoint(
                "reader", replica, backend_for(make_url(replica), settings.pooler, settings.executor)
            )
        with_markers = self.backend.has_commit_markers and settings.commit_witness
        key = settings.write_token_key if with_markers else None
        self.write_tokens = None if key is None else WriteTokens(key.get_secret_value())
        self.commit_markers = (
            CommitMarkers(settings, self.writer.engine, always=key is not None) if with_markers else None
        )
        self.registry = UnitRegistry(LeftCommits(settings, self.writer.engine))
        self.turns = Turns()
        self.tasks: set[asyncio.Task[None]] = set()
        self._known_revisions: Collection[str] | None = None
        self._schema_fault: Callable[[], str | None] | None = None
        self.closing: list[Callable[[], object]] = []
        """What `close` calls first, the newest first. Not called by `dispose`, which has no event loop."""

        self.observe(observer or self.observer)

    def observe(self, observer: Observer) -> None:
        """Have one more observer called, from now on; before the first unit of work is made.

        Of several the newest is called first, and what another has set as a unit's ``observed`` stays.
        """
        own = self.observer
        self.observer = observer if type(own) is Observer else Observers(observer, own)
        self.registry.observer = self.registry.left.observer = self.observer
        if self.commit_markers is not None:
            self.commit_markers.observer = self.observer
        engines: dict[str, dict[Pool, Engine]] = {}  # each pool once: on SQLite in memory there is but one
        for endpoint in (self.reader, self.writer):
            endpoint.limiter.observer = endpoint.backend.observer = self.observer
            endpoint.scopes_backend.observer = self.observer
            of_limiter = engines.setdefault(endpoint.limiter.name, {})
            for engine in (endpoint.engine, endpoint.scopes):
                of_limiter[engine.pool] = engine
        if type(observer) is not Observer:  # else no hook is put into the pools
            for name, of_limiter in engines.items():
                observe_pools(of_limiter.values(), name, observer)

    def expect_schema(self, revision: str, *, known: Collection[str] | None = None) -> None:
        """From now on a statement that finds no table or column is a schema that is behind, where it is.

        It is `NotMigrated` then, and not a fault of the program.

        Args:
            revision: the newest that the code knows, `db.schema.migrate.head()`.
            known: all that it knows: a schema at another one is newer, and not behind.
        """
        self._known_revisions = known
        if not self.backend.shares_one_connection:  # else the process that serves it has made its schema
            self._schema_fault = Schema(self.settings, revision, self.writer.engine, known).fault

    def is_newer(self, revisions: str | None) -> bool:
        """Whether a schema at these revisions is of a later release, as far as `expect_schema` was told."""
        known = self._known_revisions
        return known is not None and revisions is not None and not set(revisions.split(", ")) <= set(known)

    def unit_of_work(
        self,
        *,
        label: str = "a unit of work",
        read_only: bool = False,
        snapshot: bool = False,
        isolation: str | None = None,
        deadline_at: float | None = None,
        origin: object = None,
        retries: bool = False,
        executor: Literal["threads"] | None = None,
        read_after: Sequence[Written] = (),
    ) -> AsyncUnitOfWork:
        """A unit of work for code on the event loop; opens nothing yet.

        As a context manager it is committed at the end, and rolled back where the block raises::

            async with database.unit_of_work(label="nightly job") as unit:
                await unit.run(tasks.update_task, unit.session, task_id=…, change=…)

        Args:
            label: how messages name it.
            read_only: on the reader.
            snapshot: all its reads see the database as it was at the first of them.
            isolation: the transaction's isolation level, for this unit alone: "SERIALIZABLE", "REPEATABLE
                READ", "READ COMMITTED"; on SQLite "SERIALIZABLE", as any transaction there. None for the
                database's own. A unit on the reader has a transaction then. With ``snapshot``, "REPEATABLE
                READ" or "SERIALIZABLE".
            deadline_at: on the clock of `time.monotonic`; past it the unit is stopped and rolled back.
            origin: what it is done for, a request for example; kept for observers.
            retries: the caller retries its work where the connection was lost (`ConnectionLost`). Else a
                connection is pinged before it is used, which is a round trip.
            executor: "threads" for what computes for long, or calls what blocks: where the driver works in
                greenlets it runs in a thread too, and the event loop waits in its place for the database.
                None for the driver's own.
            read_after: transactions, of `write_tokens`, that what is read has to show; for a unit that is
                read-only. See `ReadAfterUnit`.

        Raises:
            UsageError: there is no such isolation level on this database, or not with ``snapshot``; or no
                such executor.
        """
        if executor not in (None, "threads"):
            raise UsageError(f'{label}: executor = {executor!r} is none; set "threads", or None')
        endpoint = self.reader if read_only else self.writer
        where = endpoint.executor if executor is None else endpoint.threads
        unit = UnitOfWork(
            endpoint.engine,
            endpoint.backend,
            label=label,
            read_only=read_only,
            snapshot=snapshot,
            isolation=isolation,
            deadline_at=deadline_at,
            confined=True,
            commit_markers=self.commit_markers,
            schema_fault=self._schema_fault,
            retries=retries,
            sessions=self.sessions,
        )
        if read_after and read_only:
            return ReadAfterUnit(
                unit,
                endpoint,
                self.registry,
                executor=where,
                pool_timeout_s=self.settings.pool_timeout_s,
                follow_up=self._follow_up,
                origin=origin,
                written=read_after,
                primary=self.writer,
                # Without a replica the reader's server is the primary, and there is nothing to wait for.
                wait_s=0.0 if self.settings.reader_url is None else self.settings.read_after_wait_ms / 1000,
                observer=self.observer,
            )
        return AsyncUnitOfWork(
            unit,
            endpoint,
            self.registry,
            executor=where,
            pool_timeout_s=self.settings.pool_timeout_s,
            follow_up=self._follow_up,
            origin=origin,
        )

    @contextlib.contextmanager
    def session_scope(
        self,
        *,
        label: str = "session_scope()",
        read_only: bool = False,
        isolation: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Session]:
        """A session for a script or a job, in a thread that may wait; committed at the end, else rolled back.

        Waits for a slot in the same queue as the requests of the process. Not retried where the database
        refuses the transaction as a conflict: that does `run_in_transaction`.

        Args:
            label: how messages name it.
            read_only: on the reader.
            isolation: as of `unit_of_work`.
            timeout_s: how long it may take in all, the wait for a slot among it. Then its running statement
                is cancelled, and its work rolled back.

        Raises:
            PoolTimeout: all slots stayed taken for ``database.pool_timeout_s``, or until the time limit.
            Unavailable: ``timeout_s`` was given, and the server has no thread to wait for that.
            DeadlinePassed: the time limit has passed; nothing is committed.
            OutsideRun: called on an event loop, which it would stop; `unit_of_work` is for there.
            NestedUnitOfWork: the caller holds a unit of work open already.
            DatabaseError: a driver's error, translated; nothing is committed then, or `OutcomeUnknown`.
        """
        _refuse_event_loop(label, "session_scope()")
        deadline_at = None if timeout_s is None else time.monotonic() + timeout_s
        endpoint = self.reader if read_only else self.writer
        wait_s = self.settings.pool_timeout_s
        wait_s = wait_s if timeout_s is None else min(wait_s, timeout_s)
        slot = self.registry.acquire_blocking(endpoint.limiter, endpoint.scopes_backend, label, wait_s)
        guard: StatementGuard | None = None
        try:
            unit = UnitOfWork(
                endpoint.scopes,
                endpoint.scopes_backend,
                label=label,
                read_only=read_only,
                isolation=isolation,
                deadline_at=deadline_at,
                commit_markers=self.commit_markers,
                schema_fault=self._schema_fault,
                sessions=self.sessions,
            )
            guard = unit.guard
            self.registry.scope_opened(unit)
            try:
                with enforced_deadline(unit, self._deadlines), unit:
                    yield unit.session
            finally:
                self.registry.scope_ended(unit)
        finally:
            self.registry.release(slot, guard)
            endpoint.close_surplus()

    def run_in_transaction(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        attempts: int | None = None,
        retry_on: tuple[type[BaseException], ...] = (),
        read_only: bool = False,
        isolation: str | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        **kwargs: Any,
    ) -> R:
        """Call ``function(session, *args, **kwargs)`` in a transaction, for a script or a job.

        Each attempt is a `session_scope` of its own, committed when the function returns. Where the database
        refuses it as a conflict, or the connection is lost, all of it is rolled back, and after a pause the
        function is called again: what it does outside of the database it may do several times.

        Args:
            function: a plain function that takes the session first.
            attempts: attempts in all; None for those of `retry_policy`.
            retry_on: errors that are retried besides those of `retry_policy`.
            read_only: on the reader.
            isolation: as of `unit_of_work`; with "SERIALIZABLE" conflicts are to be expected.
            label: how messages name it; None for the function's name.
            timeout_s: how long all attempts may take, with the pauses between them.

        Returns:
            What the function returned in the attempt that was committed.

        Raises:
            OutsideRun: called on an event loop, which it would stop; `unit_of_work` is for there.
            ValueError: ``attempts`` is below 1.
            UsageError: the function is async, or there is no such isolation level on this database.
            OutcomeUnknown: whether COMMIT was applied is not known; never retried.
            DatabaseError: as of `session_scope`; a conflict is that of the last attempt.
            Exception: whatever the function raises.
        """
        label = label or name_of(function)
        _refuse_event_loop(label, "run_in_transaction()")
        own = self.retry_policy
        policy = dataclasses.replace(own, errors=(*own.errors, *retry_on))
        if attempts is not None:
            policy = dataclasses.replace(policy, attempts_max=attempts, certification_attempts_max=attempts)
        deadline_at = None if timeout_s is None else time.monotonic() + timeout_s
        attempt = 1
        while True:
            left_s = None if deadline_at is None else max(0.0, deadline_at - time.monotonic())
            try:
                with self.session_scope(
                    label=label, read_only=read_only, isolation=isolation, timeout_s=left_s
                ) as session:
                    return call_plain(label, function, session, *args, **kwargs)
            except Exception as error:
                pause_s = policy.pause_s(attempt)
                in_time = deadline_at is None or time.monotonic() + pause_s < deadline_at
                if not (attempt < policy.attempts_for(error) and in_time and policy.retries(error)):
                    raise
                reason = reason_of(error)
            attempt += 1
            log.info("%s: retrying (%s), attempt %d", label, reason, attempt)
            self.observer.retries(reason)
            time.sleep(pause_s)

    def create_all(self, metadata: MetaData) -> None:
        """Create the tables of an application that are not there yet, and the kernel's, with their revision.

        For examples, tests and first steps: it alters no table. Called before the first request, since a
        connection looks for the kernel's tables when it is made. Blocks, through an asyncio driver's URL too;
        on an event loop ``await asyncio.to_thread(database.create_all, …)``.

        Raises:
            SchemaError: the database is at revisions that this code does not know; nothing was changed.
            DBAPIError: the database cannot be reached, or refuses it.
        """
        from db.schema import migrate  # Alembic takes a while to load, and a server need not have it

        with self.writer.scopes.begin() as connection:
            settings = self.settings
            migrate.upgrade_on(
                connection, "kernel", version_table=settings.version_table, models=settings.models
            )
            metadata.create_all(connection)
        if not self.backend.shares_one_connection:
            self.writer.scopes.dispose()  # a connection looks for the kernel's tables when it is made

    def drop_all(self, metadata: MetaData) -> None:
        """Drop the tables of an application that are there, with all rows; the kernel's stay. Blocks."""
        with self.writer.scopes.begin() as connection:
            metadata.drop_all(connection)

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Stop what is still open, and close all connections. Call it on the event loop that used them.

        Units of work that are open are rolled back; what hangs longer than ``grace_s`` is left to its thread.
        """
        while self.closing:
            self.closing.pop()()
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
        self._beside.close(wait=False)
        self.registry.left.close()
        self._deadlines.close(wait=not self.open_units)
        if self.commit_markers is not None:
            self.commit_markers.close()

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no unit of work is open and nothing follows from one. Returns whether it did in time."""
        give_up_at = time.monotonic() + timeout_s
        while (self.units or self.tasks) and time.monotonic() < give_up_at:  # noqa: ASYNC110  # see below
            await asyncio.sleep(_IDLE_LOOK_S)  # a unit that is dropped would set no event
        return not (self.units or self.tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what follows from a request. Its task is referenced, else the collector may take it."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def in_thread(self, function: Callable[[], R]) -> asyncio.Future[R]:
        """Call a plain function that may block in one of a few threads, beside those of units of work.

        Called on the event loop. A waiter that is cancelled does not stop the function; at its exit the
        interpreter does not wait for one that hangs.

        Raises:
            Unavailable: there is no thread for it, or the database is closed; it is not called.
        """
        return ThreadCall(self._beside, self._stoppers, function, nothing_follows).answer

    def close_idle(self) -> int:
        """Close connections that are idle for longer than ``pool_idle_s``, down to ``pool_min`` an endpoint.

        Called periodically, in a thread that may wait. Returns how many were closed.
        """
        idle_s, keep = self.settings.pool_idle_s, self.settings.pool_min
        if idle_s is None:
            return 0
        return sum(
            endpoint.close_idle(longer_than_s=idle_s, keep=keep) for endpoint in (self.writer, self.reader)
        )

    @property
    def units(self) -> Collection[OpenUnit]:
        """The units of work of the event loop that are open."""
        return self.registry.units

    @property
    def open_units(self) -> list[ObservedUnit]:
        """The units of work that are open, of requests and of scopes, oldest first. For the event loop."""
        return self.registry.open

    def _follow_up(
        self, label: str, deadline_at: float | None, executor: Literal["threads"] | None
    ) -> AsyncUnitOfWork:
        return self.unit_of_work(label=label, deadline_at=deadline_at, executor=executor)

    def _endpoint(
        self, role: Role, settings: DatabaseSettings, backend: Backend, scopes_backend: Backend | None = None
    ) -> Endpoint:
        engine = make_engine(settings, role, backend)
        scopes = blocking(settings)
        if scopes_backend is None:
            scopes_backend = backend_for(make_url(scopes), settings.pooler) if backend.is_async else backend
        own = make_engine(scopes, role, scopes_backend) if backend.is_async else engine
        limiter = AdmissionLimiter(
            sum(backend.pool_size(settings, role)),
            name=role,
            waiting_max=settings.pool_max_waiting,
        )
        return Endpoint(
            engine,
            backend,
            limiter,
            *self._executors(backend, limiter),
            read_only=role == "reader",
            scopes=own,
            scopes_backend=scopes_backend,
        )

    def _executors(self, backend: Backend, limiter: AdmissionLimiter) -> tuple[Executor, ThreadExecutor]:
        """The driver's own, and that of units that ask for threads."""
        # As many threads as slots: a unit of work that has a slot runs at once.
        threads = Threads(limiter.size, name=f"onfinish-{limiter.name}")
        if backend.is_async:
            on_loop = GreenletExecutor()
            return on_loop, LoopThreadExecutor(threads, self._stoppers, on_loop)
        in_threads = ThreadExecutor(threads, self._stoppers)
        return in_threads, in_threads


def _refuse_event_loop(label: str, method: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise OutsideRun(f"{label}: {method} would stop the event loop; `async with database.unit_of_work()`")
