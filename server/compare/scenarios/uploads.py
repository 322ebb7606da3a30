"""Uploads that are processed while they come in."""

from __future__ import annotations

from tornado.web import stream_request_body

from server.compare.model import add_entry, create_entry
from server.compare.scenarios.base import scenario
from server.compare.world import Probe, World


@scenario("a streamed upload, in data_received")
async def streamed_upload(world: World) -> None:
    """What ``data_received`` adds is committed with the request."""

    @stream_request_body
    class Handler(Probe):
        def data_received(self, chunk: bytes) -> None:
            self.model(add_entry)(text="chunk")

        def post(self) -> None:
            self.write("taken")

    world.mount(Handler)
    world.expect(kept="chunk")
    await world.post(body=b"x" * 100)


@scenario("a streamed upload, in data_received through run")
async def streamed_upload_run(world: World) -> None:
    """What an ``async def data_received`` writes through ``run`` is committed with the request."""

    @stream_request_body
    class Handler(Probe):
        async def data_received(self, chunk: bytes) -> None:
            await self.run(self.model(create_entry), text="chunk")

        def post(self) -> None:
            self.write("taken")

    world.mount(Handler)
    world.expect(kept="chunk")
    await world.post(body=b"x" * 100)


@scenario("a streamed upload, aborted midway")
async def aborted_upload(world: World) -> None:
    """The client disconnects in the middle: nothing is committed, and the connection is returned."""

    @stream_request_body
    class Handler(Probe):
        def data_received(self, chunk: bytes) -> None:
            try:
                self.model(add_entry)(text="chunk")
            finally:
                world.happened("received")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            world.happened("left")

    world.mount(Handler)
    world.expect(undone="chunk")
    client = await world.connect()
    client.send("/scenario?caller=A", body=b"x" * 100, announced=100_000)
    await world.until("received")
    client.leave()
    await world.until("left")
