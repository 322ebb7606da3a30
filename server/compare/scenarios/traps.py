"""The mistakes that an explicit session allows, and what they cause under each scope."""

from __future__ import annotations

from collections.abc import Callable

from server.compare.model import add_entry, create_entry
from server.compare.scenarios.base import scenario
from server.compare.world import Probe, World


@scenario("forgotten: no session passed or entered")
async def forgotten(world: World) -> None:
    """A job that forgets the session raises a clear error, and writes nothing anywhere."""

    async def job() -> None:
        async with world.job("the job", entered=False) as work:
            await work.run(world.without_session("the job", create_entry), text="row")

    world.expect(kept="row")
    with world.recording_errors("the job"):
        await world.begin(job(), clean=True)


@scenario("kept: an object that outlives its request")
async def kept_object(world: World) -> None:
    """An object made in one request and used in the next works in the next one's session, or not at all."""

    kept: list[Callable[..., object]] = []

    class Handler(Probe):
        def post(self) -> None:
            if not kept:
                kept.append(self.repository())
            else:
                kept[0](text="second row")

        def repository(self) -> Callable[..., object]:
            # As a repository that is made with the session of the first request and cached.
            return world.model("B", add_entry, self.session)

    world.mount(Handler)
    world.expect(kept="second row")
    await world.post("A")
    await world.post("B")
