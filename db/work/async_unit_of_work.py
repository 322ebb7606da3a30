"""A unit of work whose owner lives on the event loop."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

from sqlalchemy.orm import Session

from db.capacity.endpoint import Endpoint
from db.capacity.executor import Call, Executor
from db.capacity.registry import UnitRegistry
from db.capacity.slot import Slot
from db.errors import (
    Cancelled,
    ConcurrentUse,
    DatabaseError,
    DeadlinePassed,
    OutcomeUnknown,
    SessionSettled,
    TransactionEnded,
    Unavailable,
    UsageError,
)
from db.outcome import Outcome
from db.state import UnitState
from db.work.unit_of_work import UnitOfWork, name_of
from db.written import Written

log = logging.getLogger("onfinish.db")

P = ParamSpec("P")
R = TypeVar("R")

Work = Callable[[Session], object]
"""What is done with a session, by itself a unit of work."""

QUEUED_S = 0.01
"""A unit that waited longer than this for a slot was queued; what it waits for next counts as well."""

FOLLOW_UP_S = 2.0
"""What the follow-ups of a unit have together where its deadline is closer than that, or has passed."""

FollowUp = Callable[[str, float | None, Literal["threads"] | None], "AsyncUnitOfWork"]
"""Makes a unit of the writer's, of a label, a deadline and an executor."""

_PASSES_ON: set[CodeType] = set()

Method = TypeVar("Method", bound=Callable[..., Any])


def passes_on(method: Method) -> Method:
    """Mark a method that passes its call on to `AsyncUnitOfWork.run`: messages name its caller's line."""
    _PASSES_ON.add(method.__code__)
    return method


_Run = tuple[Coroutine[Any, Any, Any], str, tuple[CodeType, int]]
"""A call of `run` that was made: its coroutine, the function's name, and code and line of the caller."""


class AsyncUnitOfWork:
    """A `UnitOfWork` for code on the event loop: its work runs a call at a time, at its endpoint.

    Lives as long as one request, or one ``async with database.unit_of_work()``. Acquires a slot before
    the first call and keeps it until it is settled. Settled exactly once, by what comes first: its
    owner, or a cancel.

    Args:
        unit: of that endpoint's engine, confined; past its deadline it is stopped and rolled back.
        endpoint: where it works.
        registry: of the units that are open.
        executor: of that endpoint's, where its calls run.
        pool_timeout_s: longest wait for a slot.
        follow_up: makes a unit for what follows this one.
        origin: what it is done for, a request for example; for observers.

    Warns:
        ResourceWarning: dropped without `settle`; what it held was released, and its work is rolled back.
    """

    observed: object = None
    """The observer's own note."""

    queued_at: float | None = None
    """When it asked for its slot, on the clock of `time.monotonic`."""

    queued_s = 0.0
    """How long it waited for its slot, in seconds."""

    lost_write = False
    """Whether it was to see a write that a failover has lost."""

    _followed: Written | None = None

    is_follow_up = False
    """Whether it follows another that is settled, for the same origin."""

    def __init__(
        self,
        unit: UnitOfWork,
        endpoint: Endpoint,
        registry: UnitRegistry,
        *,
        executor: Executor,
        pool_timeout_s: float,
        follow_up: FollowUp,
        origin: object,
    ) -> None:
        self.origin = origin
        self.db_s = 0.0
        self._endpoint = endpoint
        self._registry = registry
        self._executor = executor
        self._pool_timeout_s = pool_timeout_s
        self._new_follow_up = follow_up
        self._unit = unit
        self._guard = unit.guard
        self.session: Session = unit.session
        self.exempt_from_max_waiting = False
        """Whether it waits for its slot however many wait already, until its time limit."""

        self._slot: Slot | None = None
        self._was_admitted = False
        self._slot_is_lent = False
        self._running = False
        self._calls = itertools.count()
        self._not_begun: dict[int, _Run] = {}
        self._never_run: UsageError | None = None
        self._call: Call | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._settling = False
        self._ended = False
        self._settled: asyncio.Future[None] | None = None
        self._callbacks: tuple[Callable[[], object], ...] = ()
        registry.opened(self)

    @property
    def label(self) -> str:
        """How messages name it."""
        return self._guard.label

    @property
    def opened_at(self) -> float:
        """When it was made, on the clock of `time.monotonic`."""
        return self._unit.opened_at

    @property
    def deadline_at(self) -> float | None:
        """When it is stopped, on that clock; None for never."""
        return self._guard.deadline_at

    @property
    def reason(self) -> Cancelled | None:
        """Why it was stopped, if it was."""
        return self._guard.reason

    @property
    def outcome(self) -> Outcome:
        """What has become of the work."""
        return self._unit.outcome

    @property
    def commit_s(self) -> float:
        """How long COMMIT took, in seconds."""
        return self._unit.commit_s

    @property
    def pool(self) -> str:
        """Whose slots and connections it uses: "writer" or "reader"."""
        return self._endpoint.limiter.name

    @property
    def read_only(self) -> bool:
        """Whether the database refuses it to write."""
        return self._unit.read_only

    @property
    def has_connection(self) -> bool:
        """Whether it holds a connection at this moment."""
        return self._guard.has_connection

    @property
    def statement(self) -> str | None:
        """The SQL that it sent last, without parameters."""
        return self._guard.statement

    @property
    def statements(self) -> int:
        """How many statements it has sent."""
        return self._unit.guard.statements

    @property
    def written(self) -> Written | None:
        """As `UnitOfWork.written`; or the transaction of one that followed it, which came later."""
        return self._followed or self._unit.written

    @property
    def has_slot(self) -> bool:
        """Whether the unit holds a slot of its endpoint, and with it perhaps a connection."""
        return self._slot is not None and self._slot.taken

    @property
    def commits(self) -> bool:
        """Whether its end would send a COMMIT: it has a transaction, or changes, that are not read-only."""
        return not (self._settling or self.read_only) and self._unit.in_use

    @property
    def settled(self) -> bool:
        """Whether the decision is made, or is being made."""
        return self._settling

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call a plain function where it may wait for the database, and return what it returns.

        To be awaited: a unit with a call that was made and has not begun is rolled back. The first call
        acquires a slot, which may take up to ``database.pool_timeout_s``. The function sees the context
        variables of the caller.

        Raises:
            PoolTimeout: all slots stayed taken. Nothing has run; the unit stays usable.
            ConcurrentUse: another call is under way. That call goes on.
            SessionSettled: the unit's work is over.
            Cancelled: the unit was stopped; it can only be undone.
            DatabaseError: what the driver reported, translated.
            UsageError: the function is async, or raised what would have ended the process or its thread.
            Exception: whatever the function raises.
        """
        number = next(self._calls)
        coroutine = self._run(number, function, args, kwargs)
        frame = sys._getframe(1)
        while frame.f_code in _PASSES_ON and frame.f_back is not None:
            frame = frame.f_back
        called_from = self._guard.called_from = frame.f_code, frame.f_lineno
        self._not_begun[number] = coroutine, name_of(function), called_from
        return coroutine

    async def _run(self, number: int, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        try:
            self._check_usable()
            self._running = True
            try:
                if not self.has_slot:
                    await self._acquire_slot()
                answer = self._start(self._unit.call, function, *args, **kwargs)
                del self._not_begun[number]
                return await self._result(answer, function)  # type: ignore[no-any-return]
            finally:
                self._running = False
        except BaseException:
            self._not_begun.pop(number, None)
            raise

    async def prepare(self, last: Work | None = None) -> None:
        """Do now what `settle` would do before COMMIT, where another unit is committed in between.

        Args:
            last: as of `settle`, which is not given it then.

        Raises:
            DatabaseError: as of `run`; or a call of that was not awaited. The unit can only be undone.
        """
        if self._settling:
            return
        if self._call is not None:  # a task of the owner's waits for it, and resumes before this goes on
            await self._call.over()
            await asyncio.sleep(0)
        forgotten = self._forgotten()
        if forgotten is not None:
            raise forgotten
        if last is not None or self._unit.in_use:
            await self.run(self._unit.prepare, last)

    async def settle(
        self,
        *,
        keep: bool,
        last: Work | None = None,
        follow_ups: Callable[[Exception | None], Iterable[Work]] | None = None,
    ) -> None:
        """Commit or roll back, release everything.

        Args:
            keep: commit, unless the unit was stopped meanwhile.
            last: called with the session just before COMMIT, in the same call.
            follow_ups: asked for what is to follow, with the error that kept the work from being kept if
                there was one. Each function is called with a new session, in a unit of work of its own;
                what they raise is logged. They have until the deadline, or `FOLLOW_UP_S` where that is later.

        Raises:
            DatabaseError: ``keep`` was asked for, and the work was not committed, or that is not known.
            TransactionEnded: whatever was asked for; a part of it may be kept.
        """
        first, self._settling = not self._settling, True
        fault: Exception | None = self._forgotten() if keep else None
        try:
            if first:
                await self._settle(keep and fault is None, last)
            else:
                await self._settled_by_another()
            if self._guard.ended:
                raise self._guard.ended_error()
        except Exception as error:
            fault = fault or error
            raise
        finally:
            try:
                await self._follow_up(follow_ups(fault) if follow_ups is not None else ())
            finally:
                self._end()
        if fault is not None:
            raise fault
        if keep and self.outcome is Outcome.UNKNOWN:
            raise OutcomeUnknown
        if keep and self.outcome is Outcome.ROLLED_BACK:
            raise self.reason or SessionSettled(f"{self.label}: the unit of work was undone already")

    def settle_at_once(self, *, keep: bool) -> bool:
        """Settle without a call, where that sends nothing to the database. Returns whether it was so."""
        if self._settling or self._running or self._call is not None or not self._unit.settles_at_once:
            return False
        if keep and (self._not_begun or self._guard.reason is not None):
            return False
        self._settling = True
        self._unit.settle_at_once(keep=keep and self._guard.reason is None)
        self._end()
        return True

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call a function, on the event loop, when the unit has ended; at once where it has ended already."""
        if self._ended:
            callback()
        else:
            self._callbacks += (callback,)

    def cancel(self, reason: Cancelled) -> None:
        """Stop the unit: nothing more of it starts, its running statement is cancelled, nothing is kept.

        Returns at once; the slot is released as soon as the running call has ended. A COMMIT that
        has been sent is not cancelled; only at the deadline is its connection abandoned. Must be called
        on the event loop. Later calls change nothing, except that a deadline also ends a COMMIT.
        """
        if self._settling and not isinstance(reason, DeadlinePassed):
            return
        self._guard.request_cancel(reason)
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        left_s = self._guard.seconds_left()
        self._timer = None if left_s is None else loop.call_later(left_s, self.cancel, DeadlinePassed())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._call is not None and isinstance(error, asyncio.CancelledError):
            self.cancel(Cancelled(f"{self.label}: its task was cancelled; nothing is kept"))
        try:
            await self.settle(keep=kind is None)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # -- calls

    def _check_usable(self) -> None:
        if self._guard.reason is not None:
            raise self._guard.reason
        if self._settling:
            raise self._over()
        if self._running or self._call is not None:
            raise ConcurrentUse(
                f"{self.label}: `run` was called while another of the same session was under way (as with "
                "`asyncio.gather`); a session does one thing at a time: await one after the other, do both "
                "in one function, or give each a `database.unit_of_work()` outside of the request"
            )

    def _over(self) -> SessionSettled:
        return SessionSettled(
            f"{self.label}: `run` was called after the unit of work had been settled; for later work there "
            "are `self.in_new_transaction(…)` and `database.unit_of_work()`"
        )

    def _forgotten(self) -> UsageError | None:
        if self._never_run is None:
            for coroutine, name, (code, line) in self._not_begun.values():
                # A task that was cancelled before its first step has closed it.
                if inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:
                    self._never_run = UsageError(
                        f"{self.label}: `run({name}, …)` in {code.co_filename}, line {line}, was not "
                        "awaited and has not run; nothing is kept. Write `await self.run(…)`"
                    )
                    break
        return self._never_run

    def _close_not_begun(self) -> None:
        self._forgotten()  # noted before it is closed: a request that has settled early is asked again
        for coroutine, *_ in self._not_begun.values():
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()

    async def _result(self, answer: asyncio.Future[Any], function: Callable[..., Any]) -> Any:
        """What a call returns; what it raises that is no `Exception`, as one.

        On the event loop, where it would go next, such an error ends the request's task without an answer, or
        the whole process, and with it all other requests.
        """
        try:
            return await answer
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise UsageError(
                f"{self.label}: {name_of(function)} raised {type(error).__name__}, which would have ended "
                "the whole process, or this task without an answer; what works with the session raises an "
                "`Exception`"
            ) from error

    async def _acquire_slot(self) -> None:
        queued_at = self.queued_at = time.monotonic()
        slot = await self._new_slot()
        self.queued_s = time.monotonic() - queued_at
        if self.queued_s > QUEUED_S:
            self._guard.begin_by = queued_at + self._pool_timeout_s
        if self._settling:  # its owner went on without it while it was queued
            slot.release()
            raise self._guard.reason or self._over()
        self._slot = slot
        if self._guard.reason is not None:
            raise self._guard.reason

    async def _new_slot(self) -> Slot:
        timeout_s, left_s = self._pool_timeout_s, self._guard.seconds_left()
        slot = await self._registry.acquire(
            self._endpoint.limiter,
            self._guard.label,
            timeout_s if left_s is None else min(timeout_s, left_s),
            exempt=self.exempt_from_max_waiting,
        )
        self._was_admitted = True
        return slot

    def _start(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Start a call. Returns its answer: a waiter that is cancelled cancels that, and the call runs on."""

        def work() -> Any:
            worker = self._executor.worker()
            self._registry.work_begins(worker, self._guard.label)
            try:
                return function(*args, **kwargs)
            finally:
                self._registry.work_ended(worker)

        call = self._executor.start(work, self._call_ended)
        self._call = None if call.is_over else call
        if self._guard.reason is not None:  # only the end of a stopped unit follows, and may hang too
            self._ending = asyncio.get_running_loop().create_task(self._end_call(call))
        return call.answer

    def _call_ended(self, call: Call) -> None:
        self.db_s += call.took_s
        self._call = None
        if self._guard.abandoned:  # what it held is released now
            self._executor.detach(self._clean_up)

    # -- the end

    async def _settle(self, keep: bool, last: Work | None) -> None:
        if self._call is not None and not await self._call.over():
            if keep:
                raise self._guard.reason or Unavailable("the database did not answer in time")
        elif (self._unit.settles_at_once and not (last and keep)) or not (keep or self.has_slot):
            self._unit.settle(keep=keep and self._guard.reason is None)
        else:
            if not self.has_slot:  # rows were added to the session, and no `run` has acquired a slot yet
                try:
                    self._slot = await self._new_slot()
                except BaseException:
                    self._unit.settle(keep=False)
                    raise
            try:
                await self._result(self._start(self._unit.settle, keep=keep, last=last), self._unit.settle)
            except asyncio.CancelledError:
                # The call has no waiter any more, and runs on: where COMMIT is not sent yet, it never is.
                reason = Cancelled(f"{self.label}: its task was cancelled; nothing is kept")
                self._guard.request_cancel(reason)
                raise
            except DatabaseError:
                if keep and self._unit.state is not UnitState.COMMITTED:
                    raise  # else it was abandoned, and the database rolls it back

    async def _stop(self) -> None:
        """End the running call, then see that the unit is rolled back."""
        if self._call is not None:
            await self._end_call(self._call)
        if not self._settling:
            with suppress(TransactionEnded):  # it is raised in the owner, which settles too
                await self.settle(keep=False)

    async def _end_call(self, call: Call) -> None:
        guard = self._guard
        if not await call.end(guard):
            in_doubt = guard.state in (UnitState.COMMITTING, UnitState.IN_DOUBT)
            call.give_up(OutcomeUnknown() if in_doubt else (guard.reason or DeadlinePassed()))

    async def _settled_by_another(self) -> None:
        if not self._ended:
            if self._settled is None:
                self._settled = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._settled)

    async def _follow_up(self, functions: Iterable[Work]) -> None:
        """Do each piece of work in a unit of its own, on this unit's slot where that is a writer's."""
        give_up_at = None
        if self.deadline_at is not None:
            give_up_at = max(self.deadline_at, time.monotonic() + FOLLOW_UP_S)
        in_threads: Literal["threads"] | None = (
            "threads" if self._executor is self._endpoint.threads else None
        )
        for function in functions:
            unit = self._new_follow_up(f"{self.label} afterwards", give_up_at, in_threads)
            unit.origin, unit.is_follow_up = self.origin, True
            unit.exempt_from_max_waiting = self._was_admitted  # newcomers take no audit row from it
            guard = self._guard
            is_whole = self._call is None and self._unit.settled and not (guard.abandoned or guard.left_pid)
            if self.has_slot and is_whole and self._endpoint is unit._endpoint:
                unit._slot, unit._slot_is_lent = self._slot, True
            else:
                self._end()  # a reader's slot is of no use to a write, and is not kept while it waits
            try:
                async with unit:
                    await unit.run(function, unit.session)
            except Exception:
                log.exception("%s: failed", unit.label)
            self._followed = unit.written or self._followed
            if unit._slot_is_lent and (unit._guard.abandoned or unit._slot is None):
                self._slot = None  # released when the work, or the COMMIT, that hangs in it ends

    def _end(self) -> None:
        first, self._ended = not self._ended, True
        guard = self._guard
        if (reason := guard.reason) is not None:  # it holds the frames that it came through, and a cursor
            reason.__traceback__ = reason.__cause__ = reason.__context__ = None
        if guard.abandoned:
            pass
        elif self._call is None and (self._unit.settled or not self.has_connection):
            if not self._unit.settled:  # no thread began its end, which sends nothing
                self._unit.settle(keep=False)
            if not self._slot_is_lent or guard.left_pid is not None:
                self._release_slot()
        else:  # abandoned, or not begun by any thread: its owner may go on meanwhile
            guard.abandon()
            if self._slot is not None:
                self._slot.abandon()
            if self._call is None:
                self._executor.detach(self._clean_up)
        if first:
            self._registry.ended(self)
            for callback in self._callbacks:
                callback()
        if self._not_begun:  # a task that was made for one takes its first step, and raises, before this
            asyncio.get_running_loop().call_soon(self._close_not_begun)
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _clean_up(self) -> None:
        if not self._unit.settled:
            with suppress(TransactionEnded):  # there is no owner left to raise it in
                self._unit.settle(keep=False)
        self._release_slot()

    def _release_slot(self) -> None:
        slot, self._slot = self._slot, None  # once: where its COMMIT was cut it is kept each time
        if slot is not None:
            self._registry.release(slot, self._guard)
