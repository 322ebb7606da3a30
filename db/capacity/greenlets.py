"""Greenlets that do one piece of work after another."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

_LONG_S = 0.005
"""A piece of work that has had the loop for so long, a bulk say, lets others pass between its statements."""

_TURNS = 8
"""For so many turns of the loop, which is what a short request takes from its first byte to its answer: else
each of them has a statement of a bulk in it, and a probe beside bulks of 10,000 waited twice as long."""


async def _let_others_pass() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class Worker(greenlet):
    """Does one piece of work at a time, and is idle in between. Lives as long as its `Workers`.

    SQLAlchemy's own bridge makes a greenlet for each; the stack of each is asked of the kernel, and given
    back. While it is idle it holds nothing of what it has done.
    """

    __sqlalchemy_greenlet_provider__ = True
    """Inside of it SQLAlchemy's `await_` works: it hands what is to be awaited to the parent."""

    work: Callable[[], Any] | None = None
    result: Any = None
    raised: BaseException | None = None
    is_done = True

    def run(self) -> None:
        """Work, and wait for more, for ever."""
        while True:
            self._work()
            self.parent.switch()  # type: ignore[union-attr]  # it has one: its maker

    def _work(self) -> None:
        work, self.work = self.work, None
        try:
            self.result = work() if work is not None else None
        except GreenletExit as error:  # the collector's, of a worker whose loop is gone; or the work's own
            self.raised, self.is_done = error, True
            raise
        except BaseException as error:  # noqa: BLE001  # it belongs to the waiter
            self.raised = error
        self.is_done = True


class Workers:
    """The workers of one event loop. Lives as long as that; its thread alone can switch to them."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []

    async def do(self, work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """Run `work` in an idle worker, or in a new one. Returns its result, or what it raised.

        A cancel of the calling task is passed on to where the work waits.
        """
        worker = self._idle.pop() if self._idle else Worker()
        worker.work, worker.is_done = work, False
        worker.gr_context = getcurrent().gr_context
        had_s, began = 0.0, time.perf_counter()
        awaited = worker.switch()
        while not worker.is_done:
            had_s += time.perf_counter() - began
            try:
                value = await awaited
                if had_s > _LONG_S:
                    await _let_others_pass()
            except BaseException:  # noqa: BLE001  # it belongs to the work that waits
                began = time.perf_counter()
                awaited = worker.throw(*sys.exc_info())
            else:
                began = time.perf_counter()
                awaited = worker.switch(value)
        outcome = worker.result, worker.raised
        worker.result = worker.raised = worker.gr_context = None
        if not worker.dead:
            self._idle.append(worker)
        return outcome
