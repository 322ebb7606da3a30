"""What handlers have asked to be done once their work is committed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from handlers.lifecycle.hooks import InThread, OnCommit


class OnCommitCall(NamedTuple):
    """A function that was given to `on_commit`, with its arguments."""

    function: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@contextlib.contextmanager
def recorded_on_commit(*, run: bool = True) -> Iterator[list[OnCommitCall]]:
    """Record the functions that are due since their requests, or messages, were committed in the block.

    In the order of their commits; nothing of a request that was rolled back. All of a request are there when
    its answer is.

    Args:
        run: False: they are recorded in place of being called.

    Returns:
        The calls, growing while the block runs. ``await database.idle(5.0)`` waits for their end.
    """
    recorded: list[OnCommitCall] = []
    add, call_all = OnCommit.add, OnCommit.call

    def add_while_called(self: OnCommit, call: functools.partial[object]) -> None:
        if self.under_way:  # by one of them
            recorded.append(_call_of(call))
        add(self, call)

    async def recorded_call(self: OnCommit, summary: str, in_thread: InThread) -> None:
        recorded.extend(map(_call_of, self.calls))
        if run:
            await call_all(self, summary, in_thread)
        else:
            self.calls.clear()

    OnCommit.add, OnCommit.call = add_while_called, recorded_call  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        OnCommit.add, OnCommit.call = add, call_all  # type: ignore[method-assign]


def _call_of(function: functools.partial[object]) -> OnCommitCall:
    return OnCommitCall(function.func, function.args, function.keywords)
