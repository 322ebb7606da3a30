"""A call: work of a unit that runs where it may wait for the database."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from greenlet import getcurrent
from sqlalchemy.util.concurrency import greenlet_spawn

from db.capacity.greenlets import Worker
from db.capacity.threads import Threads
from db.errors import DeadlinePassed, Unavailable
from db.guard import StatementGuard
from db.state import UnitState

log = logging.getLogger("onfinish.db")

Work = Callable[[], Any]
R = TypeVar("R")

CANCEL_EVERY_S = 0.2
"""How often a stopped unit's statement is cancelled: the first time may fall between two statements."""

SHUTDOWN_AFTER_S = 0.5
"""How long a cancelled statement, or a COMMIT at the deadline, may take before its socket is shut down."""

SHUTDOWN_EVERY_S = 0.05
"""How soon that is tried again where a cancel was on its way, which holds the lock."""

ABANDON_AFTER_S = 1.0
"""How long the work may take to notice that; then its waiters are resumed without it."""


_LOOP_LOOK_S = 1.0
"""How often a thread that waits for the event loop looks whether that was closed."""

_LONG_S = 0.005
"""A call that has had the event loop for so long, a bulk say, lets others pass between its statements."""

_TURNS = 8
"""For so many turns of the loop, which is what a short request takes from its first byte to its answer: else
each of them has a statement of a bulk in it, and a probe beside bulks of 10,000 waited twice as long."""


class Call:
    """Work that runs where it may wait, and its waiters on the event loop.

    Lives until the work is over. Starts at once. A waiter may be cancelled, or resumed
    without the result; the work runs on all the same.

    Args:
        ended: called on the loop when the work is over, before any waiter resumes.
    """

    def __init__(self, ended: Callable[[Call], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._ended = ended
        self._began = time.perf_counter()
        self.took_s = 0.0
        self.is_over = False
        self.answer: asyncio.Future[Any] = self.loop.create_future()
        self._over: asyncio.Future[None] | None = None

    async def over(self, timeout_s: float | None = None) -> bool:
        """Wait until the work is over, or abandoned. Returns whether it is over."""
        if not self.is_over:
            if self._over is None:
                self._over = self.loop.create_future()
            await asyncio.wait([self._over], timeout=timeout_s)
        return self.is_over

    async def end(self, guard: StatementGuard) -> bool:
        """End the work by stronger and stronger means, in a limited time. Returns whether it is over."""
        cut_at = self.loop.time() + SHUTDOWN_AFTER_S
        while not self.is_over and (left_s := cut_at - self.loop.time()) > 0:
            heard = await self._cancel_statement(guard, left_s)
            if await self.over(CANCEL_EVERY_S) or not heard:
                break
        if self._withdraw():  # no thread was free for it in that time; one that is on its way has begun it
            self._arrive(None, guard.reason or DeadlinePassed())
        give_up_at = self.loop.time() + ABANDON_AFTER_S
        if not self.is_over:
            log.warning("%s: the database did not end it in time; its connection is cut", guard.label)
            while not self._shutdown_socket(guard) and self.loop.time() < give_up_at:
                if await self.over(SHUTDOWN_EVERY_S):
                    break
        if not await self.over(max(0.0, give_up_at - self.loop.time())):
            log.error("%s: its work hangs, and keeps its slot until it ends", guard.label)
        return self.is_over

    def give_up(self, error: BaseException) -> None:
        """Resume the waiters without the result: ``error`` is raised in them."""
        if not self.answer.done():
            self.answer.set_exception(error)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _withdraw(self) -> bool:
        """Take back work that has not begun. Returns whether it was so: then it never begins."""
        return False

    async def _cancel_statement(self, guard: StatementGuard, timeout_s: float) -> bool:
        """Have the database cancel the statement that runs, see `StatementGuard.cancel_statement`.

        Returns:
            Whether the request reached the database in that time.
        """
        raise NotImplementedError

    def _shutdown_socket(self, guard: StatementGuard) -> bool:
        """Break the connection under the work, see `StatementGuard.shutdown_socket`."""
        raise NotImplementedError

    def _arrive(self, result: Any, error: BaseException | None) -> None:
        self.took_s = time.perf_counter() - self._began
        self.is_over = True
        self._ended(self)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self.answer.done():  # there is no waiter any more
            return
        if error is None:
            self.answer.set_result(result)
        elif isinstance(error, StopIteration):  # which no future, and no coroutine, lets through
            self.answer.set_exception(RuntimeError("the function raised StopIteration"))
        else:
            self.answer.set_exception(error)


class Executor:
    """Where an endpoint's calls run. Lives as long as its endpoint, which closes it."""

    worker: Callable[[], object] = staticmethod(threading.get_ident)
    """Identifies the thread or greenlet that does a call, for whatever that call opens in turn."""

    def start(self, work: Work, ended: Callable[[Call], None]) -> Call:
        """Start a call, from the event loop.

        Raises:
            Unavailable: there is no thread for it; it is not done.
        """
        raise NotImplementedError

    def detach(self, work: Work) -> None:
        """Do work without a waiter, from the event loop, whether or not there is room for it."""
        raise NotImplementedError

    def call(self, function: Callable[..., R], /, *args: Any) -> R:
        """Call a function that closes connections, from a thread that may wait for it."""
        return function(*args)

    def close(self, *, wait: bool) -> None:
        """Take no more work."""


class ThreadExecutor(Executor):
    """In threads, for drivers that block.

    Args:
        threads: as many as there are slots, so that one is free.
        stoppers: where statements are cancelled, which may take half a second each.
    """

    def __init__(self, threads: Threads, stoppers: Threads) -> None:
        self.threads = threads
        self._stoppers = stoppers

    def start(self, work: Work, ended: Callable[[Call], None]) -> Call:
        return ThreadCall(self.threads, self._stoppers, work, ended)

    def detach(self, work: Work) -> None:
        try:
            self.threads.submit(work)
        except Unavailable:  # they are closed
            threading.Thread(target=work, daemon=True).start()

    def close(self, *, wait: bool) -> None:
        self.threads.close(wait=wait)


class GreenletExecutor(Executor):
    """In greenlets on the event loop itself, for drivers that wait without blocking it."""

    worker = staticmethod(getcurrent)

    def __init__(self) -> None:
        self._detached: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[Worker] = []
        """Workers of that loop; its thread alone can switch to them."""

    def start(self, work: Work, ended: Callable[[Call], None]) -> Call:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._idle = loop, []
        return GreenletCall(self._idle, work, ended)

    def detach(self, work: Work) -> None:
        task = asyncio.get_running_loop().create_task(greenlet_spawn(work))
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)

    def call(self, function: Callable[..., R], /, *args: Any) -> R:
        if self._loop is None:  # nothing was ever connected
            return function(*args)
        return asyncio.run_coroutine_threadsafe(greenlet_spawn(function, *args), self._loop).result()


class LoopThreadExecutor(ThreadExecutor):
    """In threads, for drivers that wait on the event loop: each wait is handed to that.

    Args:
        on_loop: where work without a waiter is done, which computes nothing.
    """

    def __init__(self, threads: Threads, stoppers: Threads, on_loop: Executor) -> None:
        super().__init__(threads, stoppers)
        self._on_loop = on_loop

    def start(self, work: Work, ended: Callable[[Call], None]) -> Call:
        return LoopThreadCall(self.threads, self._stoppers, work, ended)

    def detach(self, work: Work) -> None:
        self._on_loop.detach(work)


class ThreadCall(Call):
    """A call in a thread, which cannot be stopped: it ends when its driver returns."""

    def __init__(
        self, threads: Threads, stoppers: Threads, work: Work, ended: Callable[[Call], None]
    ) -> None:
        super().__init__(ended)
        self._threads = threads
        self._stoppers = stoppers
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._context = contextvars.copy_context()
        threads.submit(self._begin)

    def _withdraw(self) -> bool:
        return self._threads.withdraw(self._begin)

    async def _cancel_statement(self, guard: StatementGuard, timeout_s: float) -> bool:
        try:
            stop = ThreadCall(self._stoppers, self._stoppers, guard.cancel_statement, nothing_follows)
        except Unavailable:
            return False
        await asyncio.wait([stop.answer], timeout=timeout_s)
        if not stop.answer.done():
            stop._withdraw()
            stop.answer.cancel()
            return False
        return stop.answer.result() is not False

    def _shutdown_socket(self, guard: StatementGuard) -> bool:
        return guard.shutdown_socket()

    def _begin(self) -> Callable[[], None]:
        self._context.run(self._run)
        return self._report

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as raised:  # noqa: BLE001  # it belongs to the waiter
            self._error = raised

    def _report(self) -> None:
        result, error = self._result, self._error
        self._result = self._error = None  # an error holds the frames that it came through, with this call
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no waiter is left
            self.loop.call_soon_threadsafe(self._arrive, result, error)


class _WaitsOnLoop(Call):
    """A call whose driver waits on the event loop, in a task that can be cancelled."""

    async def _cancel_statement(self, guard: StatementGuard, timeout_s: float) -> bool:
        heard = guard.cancel_statement()
        if heard is None:  # the driver cancels a statement whose task is cancelled
            self._cancel()
            return True
        return heard if isinstance(heard, bool) else await heard

    def _shutdown_socket(self, guard: StatementGuard) -> bool:
        severed = guard.shutdown_socket()
        if guard.state is not UnitState.COMMITTING:  # how a COMMIT ended is found out behind it
            self._cancel()
        return severed

    def _cancel(self) -> None:
        raise NotImplementedError


class GreenletCall(_WaitsOnLoop):
    """A call in a greenlet, over SQLAlchemy's own bridge: where its driver waits, the loop goes on.

    Its first part runs at once, in the caller's task. What follows a future that it awaits, as psycopg2's
    connections do here, runs in that one's callback; from its first coroutine on it has a task of its own, in
    which a driver goes from one to the next without a turn of the loop between them. So a waiter may be
    cancelled without breaking the connection.

    Args:
        idle: the workers of the loop that are free; one is taken, and given back.
    """

    def __init__(self, idle: list[Worker], work: Work, ended: Callable[[Call], None]) -> None:
        super().__init__(ended)
        self._idle = idle
        self._worker = worker = idle.pop() if idle else Worker()
        self._awaited: asyncio.Future[Any] | None = None
        self._begins = self._cancelled = False
        self._had_s = 0.0
        worker.work, worker.is_done = work, False
        worker.gr_context = contextvars.copy_context()
        self._go_on(worker.switch)

    def _cancel(self) -> None:
        # A future that is done has its result on the way; its own task would never begin.
        if self._awaited is not None and (self._begins or not self._awaited.cancel()):
            self._cancelled = True

    def _go_on(self, switch: Callable[..., Any], *arguments: Any) -> None:
        """Switch to the worker, and see to what it awaits then, if it has not ended."""
        awaited = self._switch(switch, *arguments)
        if awaited is None:
            return
        if asyncio.isfuture(awaited) and self._had_s <= _LONG_S:
            self._awaited = awaited
            awaited.add_done_callback(self._resume)
        else:
            self._begins = True
            self._awaited = self.loop.create_task(self._drive(awaited), context=self._worker.gr_context)

    def _switch(self, switch: Callable[..., Any], *arguments: Any) -> Any:
        """Switch to the worker. Returns what it awaits; None where it has ended, and all is done."""
        began = time.perf_counter()
        awaited = switch(*arguments)
        worker = self._worker
        if not worker.is_done:
            self._had_s += time.perf_counter() - began
            return awaited
        result, error = worker.result, worker.raised
        worker.result = worker.raised = worker.gr_context = None
        if not worker.dead:
            self._idle.append(worker)
        self._arrive(result, error)
        return None

    def _resume(self, awaited: asyncio.Future[Any]) -> None:
        try:
            if self._cancelled:
                self._cancelled = False
                raise asyncio.CancelledError  # as what it awaits would have raised it
            value = awaited.result()
        except BaseException:  # noqa: BLE001  # it belongs to the work that waits
            self._go_on(self._worker.throw, *sys.exc_info())
        else:
            self._go_on(self._worker.switch, value)

    async def _drive(self, awaited: Awaitable[Any]) -> None:
        self._begins = False
        if self._cancelled and self._awaited is not None:
            self._awaited.cancel()  # this task, at the first place where it waits
        while awaited is not None:
            try:
                value = await awaited
                if self._had_s > _LONG_S:
                    for _ in range(_TURNS):
                        await asyncio.sleep(0)
            except GeneratorExit:  # the loop is closed, and no waiter is left
                raise
            except BaseException:  # noqa: BLE001  # it belongs to the work that waits
                awaited = self._switch(self._worker.throw, *sys.exc_info())
            else:
                awaited = self._switch(self._worker.switch, value)


class LoopThreadCall(_WaitsOnLoop, ThreadCall):
    """A call that computes in a thread, in a greenlet there: what its driver waits for, the loop awaits."""

    _task: asyncio.Task[Any] | None = None

    def _begin(self) -> Callable[[], None]:
        worker = Worker()
        worker.gr_context = self._context
        worker.work, worker.is_done = self._work, False
        asyncio.set_event_loop(self.loop)  # aiosqlite makes futures of what it calls the current one
        awaited = worker.switch()
        while not worker.is_done:
            try:
                value = self._wait_for(awaited)
            except BaseException:  # noqa: BLE001  # it belongs to the work that waits
                awaited = worker.throw(*sys.exc_info())
            else:
                awaited = worker.switch(value)
        self._result, self._error = worker.result, worker.raised
        if not worker.dead:  # idle, its frame would keep it, and its stack, for ever
            worker.throw()
        return self._report

    def _wait_for(self, awaited: Awaitable[Any]) -> Any:
        arrived: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def pass_on(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                arrived.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                arrived.set_exception(error)
            else:
                arrived.set_result(task.result())

        def begin() -> None:
            task = self._task = self.loop.create_task(_value_of(awaited))
            task.add_done_callback(pass_on)

        self.loop.call_soon_threadsafe(begin)
        while True:
            concurrent.futures.wait([arrived], timeout=_LOOP_LOOK_S)
            if arrived.done():
                return arrived.result()
            if self.loop.is_closed():
                raise RuntimeError("the event loop was closed under a call")

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _value_of(awaited: Awaitable[Any]) -> Any:
    return await awaited


def nothing_follows(call: Call) -> None:
    """Nothing follows from its end."""
