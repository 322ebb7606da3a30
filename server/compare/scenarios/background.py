"""Work after a request, and beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tornado.ioloop import IOLoop

from server.compare.model import add_entry, create_entry, list_entries
from server.compare.scenarios.base import scenario
from server.compare.world import Meant, Probe, World


@scenario("create_task that outlives the request")
async def outliving_task(world: World) -> None:
    """A task that was handed the request's session, or finds it, cannot use it once it is settled."""

    class Handler(Probe):
        def post(self) -> None:
            world.begin(later(self.model(create_entry)))

    async def later(call: Callable[..., object]) -> None:
        await world.until("answered")
        call(text="late row")

    world.mount(Handler)
    world.expect(kept="late row")
    await world.post()
    world.happened("answered")


@scenario("add_callback after finish()")
async def callback_after_finish(world: World) -> None:
    """A callback that runs after the answer cannot use the session of the settled request."""

    class Handler(Probe):
        def post(self) -> None:
            call = self.model(create_entry)
            self.finish()
            IOLoop.current().add_callback(later, call)

    def later(call: Callable[..., object]) -> None:
        with world.recording_errors("the callback"):
            call(text="late row")
        world.happened("called back")

    world.mount(Handler)
    world.expect(kept="late row")
    await world.post()
    await world.until("called back")


@scenario("call_later, and another request")
async def timer_beside_another(world: World) -> None:
    """A timer of one request that fires during another one adds nothing to the other's work."""

    class Handler(Probe):
        async def post(self) -> None:
            if self.caller == "A":
                again(self.model(add_entry))
            else:
                await world.until("called back")

    def again(call: Callable[..., object]) -> None:
        asyncio.get_running_loop().call_later(0.005, later, call)

    def later(call: Callable[..., object]) -> None:
        if not world.event("B begins").is_set():
            again(call)
            return
        with world.recording_errors("the timer"):
            call(text="A's late row")
        world.happened("called back")

    world.mount(Handler)
    world.expect(undone="A's late row")
    await world.post("A")
    await world.post("B")


@scenario("a query after self.finish()")
async def query_after_finish(world: World) -> None:
    """A method that continues after its answer cannot read in the settled session."""

    class Handler(Probe):
        def post(self) -> None:
            self.finish()
            self.model(list_entries)()

    world.mount(Handler)
    await world.post()


@scenario("a worker that the first request starts")
async def lazy_worker(world: World) -> None:
    """A task that serves all requests, started by the first of them, keeps their work apart: the first is
    refused and undone, the second acknowledged and kept."""

    jobs: asyncio.Queue[tuple[str, Callable[..., object]]] = asyncio.Queue()

    class Handler(Probe):
        async def post(self) -> None:
            if self.caller == "A":
                world.begin(worker())
            await world.until("A begins", "B begins")
            jobs.put_nowait((f"{self.caller}'s row", self.model(add_entry)))
            await world.until("A's row", "B's row")
            if self.caller == "A":
                raise Meant("A was refused")

    async def worker() -> None:
        for _ in range(2):
            text, call = await jobs.get()
            with world.recording_errors("the worker"):
                call(text=text)
            world.happened(text)

    world.mount(Handler)
    world.expect(kept="B's row", undone="A's row")
    first = asyncio.ensure_future(world.post("A"))
    await world.until("A begins")
    await asyncio.gather(first, world.post("B"))


@scenario("an audit row that survives a rollback")
async def audit_row(world: World) -> None:
    """The request is refused and undone; the row that it hands to a new transaction is committed."""

    class Handler(Probe):
        async def post(self) -> None:
            self.in_new_transaction(world.recorded("the audit", create_entry), text="audit")
            await self.run(self.model(create_entry), text="row")
            raise Meant("refused")

    world.mount(Handler)
    world.expect(kept="audit", undone="row")
    await world.post()
