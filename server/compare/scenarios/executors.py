"""Work that leaves the event loop by other ways than ``run``."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

from tornado.ioloop import IOLoop

from server.compare.model import create_entry
from server.compare.scenarios.base import scenario
from server.compare.world import Probe, World

_PATIENCE_S = 1.0


@scenario("run_in_executor, asyncio's")
async def asyncio_executor(world: World) -> None:
    """Model code in the event loop's executor writes in the request's session, or is refused."""

    class Handler(Probe):
        async def post(self) -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, partial(self.model(create_entry), text="row"))

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("run_in_executor, IOLoop's")
async def ioloop_executor(world: World) -> None:
    """Model code in Tornado's executor writes in the request's session, or is refused."""

    class Handler(Probe):
        async def post(self) -> None:
            await IOLoop.current().run_in_executor(None, partial(self.model(create_entry), text="row"))

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("asyncio.to_thread")
async def to_thread(world: World) -> None:
    """Model code in a thread with a copy of the context writes in the request's session, or not at all."""

    class Handler(Probe):
        async def post(self) -> None:
            await asyncio.to_thread(self.model(create_entry), text="row")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("gather over one session")
async def gather(world: World) -> None:
    """Two calls of ``run`` at once never share a session without an error."""

    class Handler(Probe):
        async def post(self) -> None:
            loop = asyncio.get_running_loop()
            first, second = self.model(create_entry), self.model(create_entry)
            has_written, is_over = asyncio.Event(), threading.Event()

            def one(*, text: str) -> None:
                # Ends after the other call: which of the two is quicker decides nothing.
                try:
                    first(text=text)
                finally:
                    loop.call_soon_threadsafe(has_written.set)
                is_over.wait(_PATIENCE_S)

            async def other() -> None:
                await has_written.wait()
                try:
                    await self.run(second, text="two")
                finally:
                    is_over.set()

            await asyncio.gather(self.run(one, text="one"), other())

    world.mount(Handler)
    world.expect(kept={"one", "two"})
    await world.post()
