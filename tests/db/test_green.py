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

from db.capacity.greenlets import Workers


class Thing:
    """An object of which a weak reference shows whether it is still referenced."""


async def arrives(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def waits_for(value: Any) -> Callable[[], Any]:
    return lambda: await_(arrives(value))


@pytest.mark.gen_test
async def test_work_waits_where_the_loop_goes_on_and_its_worker_is_used_again():
    workers = Workers()

    first = await asyncio.gather(*(workers.do(waits_for(number)) for number in range(3)))
    resting = list(workers._idle)
    again = await workers.do(waits_for("again"))

    assert first == [(0, None), (1, None), (2, None)]
    assert again == ("again", None)
    assert len(resting) == 3
    assert set(workers._idle) == set(resting)


@pytest.mark.gen_test
async def test_long_work_lets_a_short_request_pass_between_two_of_its_statements():
    """Of six turns of the loop, one has a piece of it at most."""
    pieces = 0

    def work() -> None:
        nonlocal pieces
        for _ in range(30):
            time.sleep(0.001)
            pieces += 1
            await_(arrives(None))

    doing = asyncio.create_task(Workers().do(work))
    while pieces < 10:  # noqa: ASYNC110  # turns are what is counted
        await asyncio.sleep(0)
    before = pieces
    for _ in range(6):
        await asyncio.sleep(0)
    passed = pieces - before

    assert passed <= 1
    assert await doing == (None, None)


@pytest.mark.gen_test
async def test_what_is_raised_is_handed_over_and_the_worker_goes_on():
    workers = Workers()
    fault = SystemExit("an exit, too")

    def fails() -> None:
        await_(arrives(None))
        raise fault

    assert await workers.do(fails) == (None, fault)
    assert await workers.do(waits_for(1)) == (1, None)


@pytest.mark.gen_test
async def test_work_that_ends_its_greenlet_ends_as_any_other():
    workers = Workers()

    def ends() -> None:
        raise GreenletExit

    result, error = await workers.do(ends)

    assert result is None
    assert isinstance(error, GreenletExit)
    assert await workers.do(waits_for(1)) == (1, None)


@pytest.mark.gen_test
async def test_a_worker_at_rest_holds_nothing_of_what_it_has_done():
    """Neither the work, nor its result, what it raised, and the context that it ran in."""
    workers = Workers()
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

        result, error = await workers.do(work)
        assert (result is thing) is not fails
        assert (error is None) is not fails

    for fails in (False, True):
        await asyncio.create_task(request(fails=fails))
    await asyncio.sleep(0)  # the loop itself holds the context of what it ran last
    gc.collect()

    assert [thing() for thing in things] == [None, None]
    assert len(workers._idle) == 1


@pytest.mark.gen_test
async def test_a_cancel_reaches_the_place_where_the_work_waits():
    workers = Workers()
    met: list[str] = []

    def work() -> str:
        try:
            await_(asyncio.sleep(60))
        except asyncio.CancelledError:
            met.append("cancelled")
        return await_(arrives("went on"))  # type: ignore[no-any-return]

    task = asyncio.create_task(workers.do(work))
    await asyncio.sleep(0)
    task.cancel()

    assert await task == ("went on", None)
    assert met == ["cancelled"]
    assert await workers.do(waits_for(1)) == (1, None)
