"""Requests that fail, and what they leave behind for the next one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tornado import gen
from tornado.ioloop import IOLoop
from tornado.web import stream_request_body

from server.compare.model import REFUSED_AT_COMMIT, add_entry, create_entry, list_entries
from server.compare.scenarios.base import scenario
from server.compare.world import POOL_SIZE, Meant, Probe, World


@scenario("an error after a write")
async def error_after_write(world: World) -> None:
    """A method that writes and raises is answered by an error, and its row is undone."""

    class Handler(Probe):
        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")
            raise Meant("refused")

    world.mount(Handler)
    world.expect(refused="row")
    await world.post()


@scenario("an error that is written, not raised")
async def error_status(world: World) -> None:
    """A method that writes a row, and then an answer with status 409, has its row undone."""

    class Handler(Probe):
        async def post(self) -> None:
            await self.run(self.model(create_entry), text="row")
            self.set_status(409)
            self.finish("not so")

    world.mount(Handler)
    world.expect(refused="row")
    await world.post()


@scenario("a COMMIT that fails")
async def commit_fails(world: World) -> None:
    """A row that a constraint refuses at COMMIT is answered by an error, not by 201."""

    class Handler(Probe):
        async def post(self) -> None:
            await self.run(self.model(create_entry), text=REFUSED_AT_COMMIT)
            self.set_status(201)

    world.mount(Handler)
    world.expect(refused=REFUSED_AT_COMMIT)
    await world.post()


@scenario("a request that reads beside one that fails")
async def reading_beside(world: World) -> None:
    """With a ``prepare`` that is a generator, B reads while A's row is not committed, and does not see it."""

    class Handler(Probe):
        @gen.coroutine
        def prepare(self) -> Generator[Any, Any, None]:
            super().prepare()
            yield gen.sleep(0)

        async def post(self) -> None:
            if self.caller == "A":
                try:
                    self.model(add_entry)(text="A's row")
                finally:
                    world.happened("A has written")
                await world.until("B is over")
                raise Meant("A was refused")
            await world.until("A has written")
            await self.run(self.model(list_entries))

    world.mount(Handler)
    world.expect(undone="A's row")
    first = world.begin(world.post("A"))
    await world.until("A begins")
    await world.post("B")
    world.happened("B is over")
    await first


@scenario("uploads broken off, then a sound request", pool_timeout_s=0.2)
async def uploads_broken_off(world: World) -> None:
    """As many uploads read, and are broken off, as the pool has connections; the next request is answered."""

    @stream_request_body
    class Handler(Probe):
        async def data_received(self, chunk: bytes) -> None:
            try:
                await self.run(self.model(list_entries))
            finally:
                world.happened(f"{self.caller} received")

        def post(self) -> None:
            self.model(add_entry)(text="sound row")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            world.happened(f"{self.caller} left")

    world.mount(Handler)
    world.expect(kept="sound row")
    for number in range(POOL_SIZE):
        client = await world.connect()
        client.send(f"/scenario?caller=r{number}", body=b"x" * 100, announced=100_000)
        await world.until(f"r{number} received")
        client.leave()
        await world.until(f"r{number} left")
    await world.post("Z", body=b"x")


@scenario("callbacks after finish(), then a sound request", pool_timeout_s=0.2)
async def callbacks_until_empty(world: World) -> None:
    """Callbacks read after their answers, one for each connection; the next request is answered."""

    class Handler(Probe):
        async def post(self) -> None:
            if self.caller == "Z":
                await self.run(self.model(create_entry), text="sound row")
                return
            call = self.model(list_entries)
            self.finish()
            IOLoop.current().add_callback(self.later, call)

        def later(self, call: Any) -> None:
            with world.recording_errors(self.caller):
                call()
            world.happened(f"{self.caller} called back")

    world.mount(Handler)
    world.expect(kept="sound row")
    for number in range(POOL_SIZE):
        with world.meant(f"r{number}"):
            await world.post(f"r{number}")
            await world.until(f"r{number} called back")
    await world.post("Z")
