"""Waiting and blocking inside of work that runs in a thread, or in a greenlet of the event loop."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.util.concurrency import await_, in_greenlet

from db.errors import Unavailable

R = TypeVar("R")


def pause(seconds: float) -> None:
    """Wait, inside of a call or in a thread: on the loop's thread without blocking the loop."""
    if in_greenlet() and asyncio._get_running_loop() is not None:
        await_(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)


def off_loop(function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Call a function that blocks, inside of a call or in a thread: never on the loop.

    Raises:
        Unavailable: there is no thread for it. It may be called later all the same.
    """
    loop = asyncio._get_running_loop()
    if loop is None or not in_greenlet():  # in a thread, or in a greenlet there
        return function(*args, **kwargs)
    try:
        result = loop.run_in_executor(None, functools.partial(function, *args, **kwargs))
    except RuntimeError as error:
        raise Unavailable("the server could start no thread for this") from error
    return await_(result)
