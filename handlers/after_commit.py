"""Functions that are called once a request's work is committed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("onfinish.handlers")


class AfterCommit:
    """The functions of one request, or of one message. Lives until the last of them has ended."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, call: Callable[[], object]) -> None:
        """Remember a function, plain or async."""
        self._calls.append(call)

    async def call(self, summary: str) -> None:
        """Call all of them, one after the other; each once. What they raise is logged."""
        calls, self._calls = self._calls, []
        for call in calls:
            try:
                result = call()
                if isinstance(result, Awaitable):
                    await result
            except Exception:
                log.exception("%s: a function for after the commit failed; the work is kept", summary)
