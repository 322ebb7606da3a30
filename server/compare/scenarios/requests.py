"""Requests, alone and beside others."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from tornado import gen

from server.compare.model import add_entry, create_entry, list_entries
from server.compare.scenarios.base import scenario
from server.compare.world import Meant, Probe, World

OVERLAPPING = 200
KEPT_ALIVE = 20


@scenario("plain handler, sync")
async def plain_sync(world: World) -> None:
    """What a plain method adds to its session is committed when the request ends."""

    class Handler(Probe):
        def post(self) -> None:
            self.model(add_entry)(text="row")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("plain handler, async")
async def plain_async(world: World) -> None:
    """What an ``async def`` method writes through ``run`` is committed when the request ends."""

    class Handler(Probe):
        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("async def prepare")
async def async_prepare(world: World) -> None:
    """A ``prepare`` that reads first, as for a log-in, and a method that writes: one session."""

    class Handler(Probe):
        async def prepare(self) -> None:
            super().prepare()
            await self.run(self.model(list_entries))

        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("@gen.coroutine prepare")
async def coroutine_prepare(world: World) -> None:
    """A ``prepare`` that is a generator makes the session; the method finds it."""

    class Handler(Probe):
        @gen.coroutine
        def prepare(self) -> Generator[Any, Any, None]:
            super().prepare()
            yield gen.sleep(0)

        def post(self) -> None:
            self.model(add_entry)(text="row")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("@gen.coroutine prepare, work through run")
async def coroutine_prepare_run(world: World) -> None:
    """A ``prepare`` that is a generator makes the session; what goes through ``run`` finds it."""

    class Handler(Probe):
        @gen.coroutine
        def prepare(self) -> Generator[Any, Any, None]:
            super().prepare()
            yield gen.sleep(0)

        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


# All wait for a slot at once, and the last one for as long as the others' commits take.
@scenario("200 overlapping requests", pool_timeout_s=30)
async def overlapping(world: World) -> None:
    """Each of 200 requests that are all under way at once on one loop commits its own row."""

    class Handler(Probe):
        async def post(self) -> None:
            await all_begun.wait()
            self.model(add_entry)(text=self.caller)
            await all_begun.wait()

    all_begun = asyncio.Barrier(OVERLAPPING)
    world.mount(Handler)
    names = [f"r{number}" for number in range(OVERLAPPING)]
    world.expect(kept=set(names))
    await asyncio.gather(*map(world.post, names))


@scenario("work through run")
async def through_run(world: World) -> None:
    """What one call of ``run`` has written, the next one reads, before its commit."""

    class Handler(Probe):
        async def post(self) -> None:
            before = await self.run(self.model(list_entries))
            await self.run(self.model(create_entry), text="row")
            if len(await self.run(self.model(list_entries))) != len(before) + 1:
                raise Meant("the row is not there")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()


@scenario("a request that raises beside one that commits")
async def raising_beside_committing(world: World) -> None:
    """The row of the one that raises is undone, that of the other one is kept."""

    class Handler(Probe):
        async def post(self) -> None:
            await world.until("A begins", "B begins")
            if self.caller == "B":
                await world.until("A is over")
            self.model(add_entry)(text=f"{self.caller}'s row")
            if self.caller == "A":
                raise Meant("A was refused")

    async def refused() -> None:
        await world.post("A")
        world.happened("A is over")

    async def committed() -> None:
        await world.until("A begins")
        await world.post("B")

    world.mount(Handler)
    world.expect(kept="B's row", undone="A's row")
    await asyncio.gather(refused(), committed())


@scenario("a cancelled handler")
async def cancelled(world: World) -> None:
    """At its deadline a handler is cancelled: 504, its row undone, its connection returned."""

    class Handler(Probe):
        timeout_s = 0.6

        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")
            await self.last_too_long()

    world.mount(Handler)
    world.expect(undone="row")
    await world.post()


@scenario("a client that leaves")
async def client_leaves(world: World) -> None:
    """A write whose client has disconnected runs to its end, in its own session."""

    class Handler(Probe):
        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")
            world.happened("written")
            await world.until("left")
            await self.run(self.model(create_entry), text="second row")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            world.happened("left")

    world.mount(Handler)
    world.expect(kept={"row", "second row"})
    client = await world.connect()
    client.send("/scenario?caller=A")
    await world.until("written")
    client.leave()
    await world.until("left")


@scenario("on_connection_close")
async def connection_close(world: World) -> None:
    """What the hook adds belongs to the request whose client has left, not to a request beside it."""

    class Handler(Probe):
        async def post(self) -> None:
            await world.until("B begins", "A has left")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            try:
                self.model(add_entry)(text="A has left")
            finally:
                world.happened("A has left")

    world.mount(Handler)
    world.expect(kept="A has left")
    client = await world.connect()
    client.send("/scenario?caller=A")
    await world.until("A begins")
    other = asyncio.ensure_future(world.post("B"))
    await world.until("B begins")
    client.leave()
    await other


@scenario("a keep-alive connection")
async def keep_alive(world: World) -> None:
    """Twenty requests over one connection have a session each, and nothing is left of the one before."""

    class Handler(Probe):
        def post(self) -> None:
            self.model(add_entry)(text=self.caller)

    world.mount(Handler)
    names = [f"r{number}" for number in range(KEPT_ALIVE)]
    world.expect(kept=set(names))
    client = await world.connect()
    for name in names:
        client.send(f"/scenario?caller={name}")
        world.evidence.answers.append((name, (await client.answer()).status))
    client.leave()


@scenario("a child task that answers")
async def answering_child(world: World) -> None:
    """A task of the request calls ``finish()``: committed as if the method had called it."""

    class Handler(Probe):
        async def post(self) -> None:
            self.model(add_entry)(text="row")
            await asyncio.create_task(self.respond())

        async def respond(self) -> None:
            await asyncio.sleep(0)
            self.finish("done")

    world.mount(Handler)
    world.expect(kept="row")
    await world.post()
