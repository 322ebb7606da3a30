"""Greenlets that do one piece of work after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, greenlet


class Worker(greenlet):
    """Does one piece of work at a time, and is idle in between. Lives as long as its event loop.

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
