"""Work without any request: jobs, scripts, tests, another application."""

from __future__ import annotations

import asyncio
from typing import Any

from server.compare.model import add_entry, create_entry
from server.compare.scenarios.base import scenario
from server.compare.world import Probe, World


@scenario("a background job")
async def background_job(world: World) -> None:
    """A job outside of any request has a unit of work of its own, and its row is committed."""

    async def job() -> None:
        async with world.job("the job") as work:
            await work.run(world.model("the job", create_entry, work.session), text="row")

    world.expect(kept="row")
    await world.begin(job(), clean=True)


@scenario("two applications in one process")
async def two_applications(world: World) -> None:
    """A handler calls the other application's code in that one's unit of work, then goes on in its own."""

    class Handler(Probe):
        async def post(self) -> None:
            async with world.job("the other", elsewhere=True) as work:
                world.model("the other", add_entry, work.session)(text="the other's row")
            self.model(add_entry)(text="own row")

    class Other(Probe):
        def post(self) -> None:
            self.model(add_entry)(text="a row of its own request")

    world.mount(Handler)
    port = world.mount(Other, elsewhere=True)
    world.expect(kept={"the other's row", "own row", "a row of its own request"})
    await world.post("A")
    await world.post("B", port=port)


@scenario("model code in a test, without a server")
async def without_a_server(world: World) -> None:
    """A script or a test opens a session, and model code works in it."""

    def script() -> Any:
        with world.script("the test") as session:
            world.model("the test", create_entry, session)(text="row")

    world.expect(kept="row")
    await asyncio.get_running_loop().run_in_executor(None, script)
