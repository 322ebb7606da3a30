"""Waiting on the loop for what a test cannot be told of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Wait until something has happened on the loop; an error where it does not happen in time."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"it did not happen within {within_s:g} s")
        await asyncio.sleep(0.01)
