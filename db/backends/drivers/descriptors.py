"""File descriptors on the event loop."""

from __future__ import annotations

import asyncio


async def ready(fd: int, *, for_writing: bool) -> None:
    """Wait until a descriptor of no transport can be read from, or written to."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    if for_writing:
        loop.add_writer(fd, wake)
    else:
        loop.add_reader(fd, wake)
    try:
        await waiter
    finally:
        if for_writing:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)
