"""Places: first come, first served, for threads and event loops in one queue; none is ever lost."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings, strategies as st

from db.capacity.limiter import AdmissionLimiter
from db.errors import PoolTimeout
from tests.fixtures.clock import own_time
from tests.fixtures.waiting import wait_until


def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


def test_a_free_place_is_taken_at_once():
    limiter = AdmissionLimiter(2, name="writer")

    assert limiter.try_take()
    assert limiter.try_take()
    assert not limiter.try_take()
    assert (limiter.taken, limiter.waiting) == (2, 0)

    limiter.give_back()
    assert limiter.taken == 1


@pytest.mark.gen_test
async def test_the_wait_has_a_limit_and_says_what_for():
    limiter = AdmissionLimiter(1, name="writer")
    limiter.try_take()

    began, began_here = time.monotonic(), own_time()
    with pytest.raises(
        PoolTimeout, match=r"all 1 places for writer are taken; none came free in 0\.1 s"
    ) as caught:
        await limiter.take(0.1)

    assert time.monotonic() - began > 0.08
    assert own_time() - began_here < 0.5
    assert caught.value.retry_after_s >= 1
    assert (limiter.taken, limiter.waiting) == (1, 0)


@pytest.mark.gen_test
async def test_the_loop_goes_on_while_a_place_is_waited_for():
    limiter = AdmissionLimiter(1, name="writer")
    limiter.try_take()
    waiter = asyncio.ensure_future(limiter.take(5))
    turns = 0
    for _ in range(20):
        await asyncio.sleep(0.001)
        turns += 1

    limiter.give_back()
    await waiter

    assert turns == 20
    assert limiter.taken == 1


def test_threads_and_tasks_stand_in_one_queue_and_are_served_in_order():
    limiter = AdmissionLimiter(1, name="writer")
    limiter.try_take()
    served: list[int] = []

    def job(number: int) -> None:
        limiter.take_blocking(5)
        served.append(number)
        limiter.give_back()

    async def request(number: int) -> None:
        await limiter.take(5)
        served.append(number)
        limiter.give_back()

    async def all_of_them() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(5) as threads:
            waiters: list[asyncio.Future[None]] = []
            for number in range(10):
                if number % 2:
                    waiters.append(loop.run_in_executor(threads, job, number))
                else:
                    waiters.append(asyncio.ensure_future(request(number)))
                while limiter.waiting <= number:  # noqa: ASYNC110 - it has no event for a new waiter
                    await asyncio.sleep(0.001)
            limiter.give_back()
            await asyncio.gather(*waiters)

    run(all_of_them())

    assert served == list(range(10))
    assert (limiter.taken, limiter.waiting) == (0, 0)


def test_no_waiter_overtakes_the_queue():
    """A slot that comes free goes to the first waiter, not to a caller of that moment."""
    limiter = AdmissionLimiter(1, name="writer")
    limiter.try_take()
    taken = threading.Event()

    def job() -> None:
        limiter.take_blocking(5)
        taken.set()

    thread = threading.Thread(target=job)
    thread.start()
    assert wait_until(lambda: limiter.waiting == 1)

    limiter.give_back()
    overtook = limiter.try_take()
    thread.join(5)

    assert taken.is_set()
    assert not overtook


@pytest.mark.gen_test
async def test_a_waiter_that_is_cancelled_takes_no_place_along():
    limiter = AdmissionLimiter(1, name="writer")
    limiter.try_take()
    gone = asyncio.ensure_future(limiter.take(5))
    next_one = asyncio.ensure_future(limiter.take(5))
    await asyncio.sleep(0)

    gone.cancel()
    await asyncio.wait([gone])
    limiter.give_back()
    await next_one

    assert gone.cancelled()
    assert (limiter.taken, limiter.waiting) == (1, 0)


@pytest.mark.gen_test
async def test_a_waiter_that_is_cancelled_as_its_place_comes_hands_it_on():
    """Both in one turn of the loop, whichever came first."""
    for first in ("place", "cancel"):
        limiter = AdmissionLimiter(1, name="writer")
        limiter.try_take()
        waiter = asyncio.ensure_future(limiter.take(5))
        await asyncio.sleep(0)

        if first == "place":
            limiter.give_back()
            waiter.cancel()
        else:
            waiter.cancel()
            limiter.give_back()
        await asyncio.wait([waiter])

        assert waiter.cancelled()
        assert limiter.taken == 0, first
        assert limiter.try_take()


@pytest.mark.gen_test
async def test_a_place_that_comes_with_the_time_limit_is_kept_or_refused_but_not_lost():
    for _ in range(20):
        limiter = AdmissionLimiter(1, name="writer")
        limiter.try_take()
        waiter = asyncio.ensure_future(limiter.take(0.002))
        await asyncio.sleep(0.001)
        time.sleep(0.001)  # noqa: ASYNC251 - so that the limit and the slot come in one turn
        limiter.give_back()
        try:
            await waiter
            expected = 1
        except PoolTimeout:
            expected = 0

        assert (limiter.taken, limiter.waiting) == (expected, 0)


def test_ctrl_c_in_the_queue_leaves_the_queue():
    """The thread is gone, and nothing may be handed to it."""
    limiter = AdmissionLimiter(1, name="writer")
    limiter.try_take()
    me = threading.get_ident()
    threading.Timer(0.1, signal.pthread_kill, [me, signal.SIGINT]).start()

    began = own_time()
    with pytest.raises(KeyboardInterrupt):
        limiter.take_blocking(5)

    assert own_time() - began < 2
    assert limiter.waiting == 0
    limiter.give_back()
    assert limiter.taken == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "cancel", "give", "turn"]), st.integers(0, 7)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3), steps=STEPS)
def test_whatever_happens_no_place_is_lost_or_doubled(size: int, steps: list[tuple[str, int]]):
    """Takers, cancellations and returns in any order, and in the end all are free."""

    async def act() -> None:
        limiter = AdmissionLimiter(size, name="writer")
        holders = 0
        waiters: list[asyncio.Future[None]] = []

        async def take() -> None:
            nonlocal holders
            await limiter.take(5)
            holders += 1

        for step, which in steps:
            if step == "take":
                waiters.append(asyncio.ensure_future(take()))
            elif step == "cancel" and waiters:
                waiters[which % len(waiters)].cancel()
            elif step == "give" and holders:
                holders -= 1
                limiter.give_back()
            else:
                await asyncio.sleep(0)
            assert holders <= size
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert limiter.taken == holders
        for _ in range(holders):
            limiter.give_back()
        assert (limiter.taken, limiter.waiting) == (0, 0)

    run(act())


def test_many_threads_and_many_tasks_with_little_patience():
    """A storm: there are never more holders than slots, and no waiter is forgotten."""
    limiter = AdmissionLimiter(3, name="writer")
    chance = random.Random(7)
    inside = most = served = 0
    lock = threading.Lock()

    def enter(number: int) -> None:
        nonlocal inside, most, served
        with lock:
            inside += number
            most = max(most, inside)
            served += number > 0

    def job(patience_s: list[float]) -> None:
        for limit in patience_s:
            try:
                limiter.take_blocking(limit)
            except PoolTimeout:
                continue
            enter(1)
            time.sleep(0.0005)
            enter(-1)
            limiter.give_back()

    async def request(limit: float, cancelled_after_s: float | None) -> None:
        async def once() -> None:
            await limiter.take(limit)
            enter(1)
            try:
                await asyncio.sleep(0.0005)
            finally:
                enter(-1)
                limiter.give_back()

        task = asyncio.ensure_future(once())
        if cancelled_after_s is not None:
            await asyncio.sleep(cancelled_after_s)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def all_of_them() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as threads:
            jobs = [
                loop.run_in_executor(threads, job, [chance.choice([0, 0.001, 1]) for _ in range(60)])
                for _ in range(8)
            ]
            for _ in range(4):
                await asyncio.gather(
                    *(
                        request(chance.choice([0, 0.001, 1]), chance.choice([None, 0, 0.001, 0.003]))
                        for _ in range(80)
                    )
                )
            await asyncio.gather(*jobs)

    run(all_of_them())

    assert most <= 3
    assert served > 100
    assert (limiter.taken, limiter.waiting) == (0, 0)
    assert all(limiter.try_take() for _ in range(3))
