"""The traps of passing the session explicitly, and what the others make of them."""

from __future__ import annotations

from collections.abc import Callable

from server.compare.scenarios.base import scenario
from server.compare.world import Probe, World, put, write


@scenario("forgotten: no session passed or entered")
async def forgotten(world: World) -> None:
    """A job whose author forgets the session is told so, and writes nothing anywhere."""

    async def job() -> None:
        async with world.database.unit_of_work(label="job") as unit:
            await unit.run(world.forgetful("the job", write), text="row")

    world.expect(kept="row")
    with world.noticing("the job"):
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
            # What a repository does that is made with the session of the first request and cached.
            return world.model("B", put, self.session)

    world.mount(Handler)
    world.expect(kept="second row")
    await world.post("A")
    await world.post("B")
