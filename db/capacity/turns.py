"""Turns: units of work that want the same thing take it one after another, and wait without a slot."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol


class Ends(Protocol):
    """A unit of work, as far as a turn depends on it."""

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call a function, on the event loop, when the unit has ended."""


class Turns:
    """A queue for each name that is in use in this process. Lives as long as its `Database`.

    What a row of the database decides, it decides; a waiter there holds a connection, and a waiter here none.
    For one event loop.
    """

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def join(self, name: Hashable, unit: Ends) -> asyncio.Future[None]:
        """Enter the queue of a name, before the unit takes a slot.

        Returns:
            What is done when it is the unit's turn, which lasts until the unit has ended; also where the unit
            ends before. To cancel it is to leave the queue.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(name, deque())
        queue.append(turn)
        if queue[0] is turn:
            turn.set_result(None)
        leave = functools.partial(self._leave, name, turn)
        turn.add_done_callback(lambda turn: leave() if turn.cancelled() else None)
        unit.add_done_callback(leave)
        return turn

    def _leave(self, name: Hashable, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(name)
        if queue is None or turn not in queue:
            return
        queue.remove(turn)
        if not turn.done():
            turn.set_result(None)  # its unit was stopped, as the next call of `run` says
        if not queue:
            del self._queues[name]
        elif not queue[0].done():
            queue[0].set_result(None)
