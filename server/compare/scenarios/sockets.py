"""WebSockets, which outlive the request that opens them."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tornado.websocket import WebSocketHandler

from db.scope import Scope
from server.compare.model import add_entry, create_entry
from server.compare.scenarios.base import scenario
from server.compare.world import World


class Socket(WebSocketHandler):
    """A WebSocket of a scenario. Lives as long as its connection."""

    world: ClassVar[World]
    scope: ClassVar[Scope]

    @property
    def caller(self) -> str:
        """The socket's name."""
        return self.get_query_argument("caller")


@scenario("WebSocket: session of the handshake")
async def handshake_session(world: World) -> None:
    """Made in ``prepare``, settled in ``on_finish`` as a request's: ``open`` cannot use it."""

    class Handler(Socket):
        def prepare(self) -> None:
            self.work = world.column.begin("the handshake")
            self.session = self.work.session
            world.owns(self.session, self.caller)

        def on_finish(self) -> None:
            self.work.end()
            world.ended(self.session)

        def open(self, *args: str, **kwargs: str) -> None:
            with world.recording_errors(self.caller):
                world.model(self.caller, add_entry, self.session)(text="opened")
            world.happened("opened")

    world.mount(Handler)
    world.expect(kept="opened")
    await world.websocket("A")
    await world.until("opened")


@scenario("WebSocket: open")
async def socket_opens(world: World) -> None:
    """A unit of work in ``open``: its row is committed."""

    class Handler(Socket):
        async def open(self, *args: str, **kwargs: str) -> None:
            async with world.job(self.caller) as work:
                await work.run(world.model(self.caller, create_entry, work.session), text="opened")
            world.happened("opened")

    world.mount(Handler)
    world.expect(kept="opened")
    await world.websocket("A")
    await world.until("opened")


@scenario("WebSocket: two sockets at once")
async def two_sockets(world: World) -> None:
    """A unit of work for each message: messages of two sockets at once are committed apart."""

    class Handler(Socket):
        async def on_message(self, message: Any) -> None:
            if self.caller == "B":  # the same order each time
                await world.until("A works")
            async with world.job(self.caller) as work:
                world.happened(f"{self.caller} works")
                await both.wait()
                world.model(self.caller, add_entry, work.session)(text=str(message))
                await both.wait()
            await self.write_message("done")

    both = asyncio.Barrier(2)
    world.mount(Handler)
    world.expect(kept={"A's row", "B's row"})
    one, other = await world.websocket("A"), await world.websocket("B")
    await one.write_message("A's row")
    await other.write_message("B's row")
    await asyncio.gather(one.read_message(), other.read_message())
