"""Greenlets that are used again."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import GreenletExit
from sqlalchemy.util.concurrency import await_

from db.capacity.executor import GreenletCall, GreenletExecutor, nothing_follows


class Thing:
    """An object of which a weak reference shows whether it is still referenced."""


async def arrives(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def waits_for(value: Any) -> Callable[[], Any]:
    return lambda: await_(arrives(value))


async def do(executor: GreenletExecutor, work: Callable[[], Any]) -> Any:
    """What a call of some work returns, in a greenlet."""
    return await executor.start(work, nothing_follows).answer


@pytest.mark.gen_test
async def test_work_waits_where_the_loop_goes_on_and_its_worker_is_used_again():
    executor = GreenletExecutor()

    first = await asyncio.gather(*(do(executor, waits_for(number)) for number in range(3)))
    resting = list(executor._idle)
    again = await do(executor, waits_for("again"))

    assert first == [0, 1, 2]
    assert again == "again"
    assert len(resting) == 3
    assert set(executor._idle) == set(resting)


def soon() -> asyncio.Future[None]:
    """A future, as psycopg2's connections await, that is done in the next turn of the loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.call_soon(future.set_result, None)
    return future


@pytest.mark.parametrize("awaits", [lambda: arrives(None), soon], ids=["coroutine", "future"])
@pytest.mark.gen_test
async def test_long_work_lets_a_short_request_pass_between_two_of_its_statements(awaits: Callable[[], Any]):
    """Of six turns of the loop, one has a piece of it at most."""
    pieces = 0

    def work() -> None:
        nonlocal pieces
        for _ in range(30):
            time.sleep(0.001)
            pieces += 1
            await_(awaits())

    doing = asyncio.create_task(do(GreenletExecutor(), work))
    while pieces < 10:  # noqa: ASYNC110  # turns are what is counted
        await asyncio.sleep(0)
    before = pieces
    for _ in range(6):
        await asyncio.sleep(0)
    passed = pieces - before

    assert passed <= 1
    await doing


@pytest.mark.gen_test
async def test_what_is_raised_is_handed_over_and_the_worker_goes_on():
    executor = GreenletExecutor()
    fault = SystemExit("an exit, too")

    def fails() -> None:
        await_(arrives(None))
        raise fault

    with pytest.raises(SystemExit) as raised:
        await do(executor, fails)

    assert raised.value is fault
    assert await do(executor, waits_for(1)) == 1


@pytest.mark.gen_test
async def test_work_that_ends_its_greenlet_ends_as_any_other():
    executor = GreenletExecutor()

    def ends() -> None:
        raise GreenletExit

    with pytest.raises(GreenletExit):
        await do(executor, ends)

    assert await do(executor, waits_for(1)) == 1


@pytest.mark.gen_test
async def test_a_worker_at_rest_holds_nothing_of_what_it_has_done():
    """Neither the work, nor its result, what it raised, and the context that it ran in."""
    executor = GreenletExecutor()
    things: list[weakref.ref[Thing]] = []
    variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")

    async def request(*, fails: bool) -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        variable.set(thing)

        def work() -> Thing:
            await_(arrives(None))
            if fails:
                raise RuntimeError(thing)
            return variable.get()

        if fails:
            with pytest.raises(RuntimeError):
                await do(executor, work)
        else:
            assert await do(executor, work) is thing

    for fails in (False, True):
        await asyncio.create_task(request(fails=fails))
    await asyncio.sleep(0)  # the loop itself holds the context of what it ran last
    gc.collect()

    assert [thing() for thing in things] == [None, None]
    assert len(executor._idle) == 1


async def long() -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("turns", [0, 1], ids=["before its task has begun", "while it waits"])
@pytest.mark.parametrize(
    "awaits",
    [long, lambda: asyncio.ensure_future(long()), lambda: asyncio.Future()],
    ids=["coroutine", "task", "future"],
)
@pytest.mark.gen_test
async def test_a_cancel_reaches_the_place_where_the_work_waits(awaits: Callable[[], Any], turns: int):
    executor = GreenletExecutor()
    met: list[str] = []

    def work() -> str:
        try:
            await_(awaits())
        except asyncio.CancelledError:
            met.append("cancelled")
        return await_(arrives("went on"))  # type: ignore[no-any-return]

    call = executor.start(work, nothing_follows)
    for _ in range(turns):
        await asyncio.sleep(0)
    assert isinstance(call, GreenletCall)
    call._cancel()

    assert await asyncio.wait_for(call.answer, 10) == "went on"
    assert met == ["cancelled"]
    assert await do(executor, waits_for(1)) == 1


@pytest.mark.gen_test
async def test_a_cancel_of_what_is_done_already_reaches_the_work_too():
    """What it awaits is done, and the work has not gone on: as a task at its next step."""
    executor = GreenletExecutor()
    awaited = asyncio.get_running_loop().create_future()

    call = executor.start(lambda: await_(awaited), nothing_follows)
    awaited.set_result("too late")
    assert isinstance(call, GreenletCall)
    call._cancel()

    with pytest.raises(asyncio.CancelledError):
        await call.answer


@pytest.mark.gen_test
async def test_work_goes_from_one_coroutine_to_the_next_without_a_turn_of_the_loop():
    """A driver may begin the next one with what the last has seen, and nothing comes between."""
    seen: list[str] = []

    async def sees(what: str) -> None:
        seen.append(what)

    async def waits_and_has_others_run() -> None:
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(seen.append, "another's")

    def work() -> None:
        await_(waits_and_has_others_run())
        await_(sees("the first"))
        await_(sees("the second"))

    await do(GreenletExecutor(), work)

    assert seen[:2] == ["the first", "the second"]


@pytest.mark.gen_test
async def test_work_that_waits_for_nothing_is_done_when_it_has_started():
    call = GreenletExecutor().start(lambda: "done", nothing_follows)

    assert call.is_over
    assert await call.answer == "done"


@pytest.mark.gen_test
async def test_work_has_a_copy_of_its_callers_context_and_what_it_awaits_has_that_one():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    executor = GreenletExecutor()
    variable.set("the caller's")

    async def look() -> str:
        return variable.get()

    def work() -> tuple[str, Any]:
        found = variable.get()
        variable.set("the work's")
        return found, await_(look())

    assert await do(executor, work) == ("the caller's", "the work's")
    assert variable.get() == "the caller's"
