"""Slots: first come, first served, for threads and event loops in one queue; none is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings, strategies as st

from db.capacity.limiter import AdmissionLimiter
from db.capacity.slot import Slot
from db.errors import PoolTimeout
from tests.fixtures.clock import own_time
from tests.fixtures.slots import all_slots
from tests.fixtures.waiting import wait_until


def run(coroutine: Coroutine[object, object, None]) -> None:
    asyncio.run(coroutine)


def waiting_thread(limiter: AdmissionLimiter, served: list[Slot]) -> threading.Thread:
    """A thread that waits in the queue, and keeps what it gets."""
    thread = threading.Thread(target=lambda: served.append(limiter.acquire_blocking(5)))
    thread.start()
    assert wait_until(lambda: limiter.waiting == 1)
    return thread


def test_a_free_slot_is_acquired_at_once():
    limiter = AdmissionLimiter(2, name="writer")

    held = [limiter.acquire_nowait(), limiter.acquire_nowait()]
    assert all(held)
    assert limiter.acquire_nowait() is None
    assert (limiter.taken, limiter.waiting) == (2, 0)

    held.pop()
    assert limiter.taken == 1


def test_a_slot_is_released_once_however_often_that_is_asked_for():
    limiter = AdmissionLimiter(2, name="writer")
    slot, other = limiter.acquire_blocking(1), limiter.acquire_blocking(1)

    with slot:
        assert slot.taken
    slot.release()
    slot.release()

    assert [slot.taken, other.taken] == [False, True]
    assert limiter.taken == 1


@pytest.mark.gen_test
async def test_a_slot_that_is_dropped_goes_to_the_first_that_waits():
    """Dropped by a task, a slot wakes a task, and then a thread."""
    limiter = AdmissionLimiter(1, name="writer")
    held = [await limiter.acquire(1)]
    waiter = asyncio.ensure_future(limiter.acquire(5))
    await asyncio.sleep(0)

    held.clear()
    slot = await waiter
    served: list[Slot] = []
    thread = await asyncio.to_thread(waiting_thread, limiter, served)
    del slot, waiter
    await asyncio.to_thread(thread.join, 5)

    assert [each.taken for each in served] == [True]
    assert limiter.taken == 1
    served.clear()
    assert limiter.taken == 0


def test_a_thread_that_ends_with_its_slot_gives_it_back():
    limiter = AdmissionLimiter(1, name="writer")

    def forgetful() -> None:
        slot = limiter.acquire_blocking(1)
        assert slot.taken

    thread = threading.Thread(target=forgetful)
    thread.start()
    thread.join()

    assert limiter.taken == 0


@pytest.mark.parametrize("is_cycle", [False, True])
def test_a_slot_may_be_dropped_while_its_own_thread_is_in_the_limiter(is_cycle: bool):
    """The collector comes at any moment: also while this thread holds the lock, which is not waited for."""
    limiter = AdmissionLimiter(2, name="writer")
    dropped: list[object] = [limiter.acquire_nowait()]
    if is_cycle:
        dropped.append(dropped)
    kept = limiter.acquire_nowait()
    assert kept is not None
    found: list[int] = []

    def collected_in_the_lock() -> None:
        nonlocal dropped
        with limiter._lock:
            dropped = []
            gc.collect()
            found.append(limiter.taken)

    thread = threading.Thread(target=collected_in_the_lock, daemon=True)
    thread.start()
    thread.join(5)
    kept.release()

    assert found == [2]
    assert limiter.taken == 0


def test_slots_that_are_dropped_by_the_collector_anywhere_are_all_back():
    """Every allocation may run the collector, which drops slots of all threads and tasks."""
    limiter = AdmissionLimiter(4, name="writer")
    chance = random.Random(3)

    def drop(slot: Slot) -> None:
        cycle: list[object] = [slot]
        cycle.append(cycle)

    def job() -> None:
        for _ in range(200):
            slot = limiter.acquire_blocking(20)
            if chance.random() < 0.5:
                drop(slot)
            del slot

    async def request() -> None:
        for _ in range(100):
            slot = await limiter.acquire(20)
            if chance.random() < 0.5:
                drop(slot)
            del slot
            await asyncio.sleep(0)

    async def collect() -> None:
        while True:
            gc.collect()
            await asyncio.sleep(0.001)

    async def act() -> None:
        loop = asyncio.get_running_loop()
        collecting = asyncio.ensure_future(collect())  # also where all wait, and nothing is allocated
        with ThreadPoolExecutor(4) as threads:
            jobs = [loop.run_in_executor(threads, job) for _ in range(4)]
            await asyncio.gather(*jobs, *(request() for _ in range(20)))
        collecting.cancel()

    before = gc.get_threshold()
    gc.freeze()  # what is there already need not be looked at each time
    gc.set_threshold(3, 2, 2)
    try:
        run(act())
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    gc.collect()

    assert (limiter.taken, limiter.waiting) == (0, 0)


def test_a_loop_that_is_closed_takes_no_slot_along():
    """With a slot that is held there, one that is on its way there, and one that is waited for there."""
    limiter = AdmissionLimiter(2, name="writer")
    free = limiter.acquire_blocking(1)
    loop = asyncio.new_event_loop()
    held = loop.run_until_complete(limiter.acquire(1))
    tasks = [loop.create_task(limiter.acquire(5)) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    assert limiter.waiting == 3

    free.release()  # handed to the first, which never runs again
    loop.close()
    held.release()  # the others are gone
    served: list[Slot] = []
    job = threading.Thread(target=lambda: served.append(limiter.acquire_blocking(5)))
    job.start()
    job.join()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # what the test does is worth no record
    del task
    tasks.clear()
    gc.collect()

    assert [each.taken for each in served] == [True]
    assert (limiter.taken, limiter.waiting) == (1, 0)


@pytest.mark.gen_test
async def test_a_coroutine_that_is_dropped_in_the_queue_leaves_it():
    limiter = AdmissionLimiter(1, name="writer")
    held = all_slots(limiter)
    coroutine = limiter.acquire(5)
    coroutine.send(None)
    assert limiter.waiting == 1

    coroutine.close()

    assert limiter.waiting == 0
    held.close()
    assert limiter.taken == 0


@pytest.mark.gen_test
async def test_the_wait_has_a_limit_and_says_what_for():
    limiter = AdmissionLimiter(1, name="writer")
    with all_slots(limiter):
        began, began_here = time.monotonic(), own_time()
        with pytest.raises(
            PoolTimeout, match=r"all 1 slots for writer are taken; none came free in 0\.1 s"
        ) as caught:
            await limiter.acquire(0.1)

        assert time.monotonic() - began > 0.08
        assert own_time() - began_here < 0.5
        assert caught.value.retry_after_s >= 1
        assert (limiter.taken, limiter.waiting, limiter.refused) == (1, 0, 1)


@pytest.mark.gen_test
async def test_the_loop_goes_on_while_a_slot_is_waited_for():
    limiter = AdmissionLimiter(1, name="writer")
    held = all_slots(limiter)
    waiter = asyncio.ensure_future(limiter.acquire(5))
    turns = 0
    for _ in range(20):
        await asyncio.sleep(0.001)
        turns += 1

    held.close()

    with await waiter:
        assert turns == 20
        assert limiter.taken == 1


def test_threads_and_tasks_stand_in_one_queue_and_are_served_in_order():
    limiter = AdmissionLimiter(1, name="writer")
    held = all_slots(limiter)
    served: list[int] = []

    def job(number: int) -> None:
        with limiter.acquire_blocking(5):
            served.append(number)

    async def request(number: int) -> None:
        with await limiter.acquire(5):
            served.append(number)

    async def all_of_them() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(5) as threads:
            waiters: list[asyncio.Future[None]] = []
            for number in range(10):
                if number % 2:
                    waiters.append(loop.run_in_executor(threads, job, number))
                else:
                    waiters.append(asyncio.ensure_future(request(number)))
                while limiter.waiting <= number:  # noqa: ASYNC110  # it signals nothing when a caller joins
                    await asyncio.sleep(0.001)
            held.close()
            await asyncio.gather(*waiters)

    run(all_of_them())

    assert served == list(range(10))
    assert (limiter.taken, limiter.waiting) == (0, 0)


def test_no_caller_overtakes_the_queue():
    """A slot that comes free goes to the first that waits, not to the one that asks in that moment."""
    limiter = AdmissionLimiter(1, name="writer")
    held = all_slots(limiter)
    served: list[Slot] = []
    thread = waiting_thread(limiter, served)

    held.close()
    overtook = limiter.acquire_nowait()
    thread.join(5)

    assert len(served) == 1
    assert overtook is None


@pytest.mark.gen_test
async def test_a_waiter_that_is_cancelled_takes_no_slot_along():
    limiter = AdmissionLimiter(1, name="writer")
    held = all_slots(limiter)
    gone = asyncio.ensure_future(limiter.acquire(5))
    next_one = asyncio.ensure_future(limiter.acquire(5))
    await asyncio.sleep(0)

    gone.cancel()
    await asyncio.wait([gone])
    held.close()

    with await next_one:
        assert gone.cancelled()
        assert (limiter.taken, limiter.waiting) == (1, 0)


@pytest.mark.gen_test
async def test_a_waiter_that_is_cancelled_as_its_slot_comes_hands_it_on():
    """Both in one turn of the loop, whichever came first."""
    for first in ("slot", "cancel"):
        limiter = AdmissionLimiter(1, name="writer")
        held = all_slots(limiter)
        waiter = asyncio.ensure_future(limiter.acquire(5))
        await asyncio.sleep(0)

        if first == "slot":
            held.close()
            waiter.cancel()
        else:
            waiter.cancel()
            held.close()
        await asyncio.wait([waiter])

        assert waiter.cancelled()
        assert limiter.taken == 0, first
        assert limiter.acquire_nowait()


@pytest.mark.gen_test
async def test_a_slot_that_comes_with_the_time_limit_is_kept_or_refused_but_not_lost():
    for _ in range(20):
        limiter = AdmissionLimiter(1, name="writer")
        held = all_slots(limiter)
        waiter = asyncio.ensure_future(limiter.acquire(0.002))
        await asyncio.sleep(0.001)
        time.sleep(0.001)  # noqa: ASYNC251 - so that the limit and the slot come in one turn
        held.close()
        slot = None
        with contextlib.suppress(PoolTimeout):
            slot = await waiter

        assert (limiter.taken, limiter.waiting) == (int(slot is not None), 0)


def test_ctrl_c_in_the_queue_leaves_the_queue():
    """The thread is gone, and nothing may be handed to it."""
    limiter = AdmissionLimiter(1, name="writer")
    held = all_slots(limiter)
    me = threading.get_ident()
    threading.Timer(0.1, signal.pthread_kill, [me, signal.SIGINT]).start()

    began = own_time()
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire_blocking(5)

    assert own_time() - began < 2
    assert limiter.waiting == 0
    held.close()
    assert limiter.taken == 0


# -- the queue's length


@pytest.mark.gen_test
async def test_one_more_than_may_wait_is_refused_at_once_coroutine_or_thread():
    limiter = AdmissionLimiter(2, name="writer", waiting_max=3)
    held = all_slots(limiter)
    waiters = [asyncio.ensure_future(limiter.acquire(20)) for _ in range(3)]
    await asyncio.sleep(0)

    began = time.monotonic()
    message = "all 2 slots for writer are taken, and 3 callers wait for one already"
    with pytest.raises(PoolTimeout, match=message) as caught:
        await limiter.acquire(20)
    with pytest.raises(PoolTimeout, match=message):
        await asyncio.to_thread(limiter.acquire_blocking, 20)
    took_s = time.monotonic() - began

    assert took_s < 5
    assert caught.value.retry_after_s >= 1
    assert (limiter.waiting, limiter.refused) == (3, 2)
    held.close()
    for waiter in waiters:
        (await waiter).release()
    assert limiter.taken == 0


@pytest.mark.gen_test
async def test_a_refusal_that_is_asked_for_is_what_a_caller_would_get_and_counts():
    limiter = AdmissionLimiter(1, name="writer", waiting_max=1)
    held = all_slots(limiter)
    waiter = asyncio.ensure_future(limiter.acquire(20))
    await asyncio.sleep(0)

    refusal = limiter.refusal(20)

    assert str(refusal) == "all 1 slots for writer are taken, and 1 callers wait for one already"
    assert (limiter.waiting, limiter.refused) == (1, 1)
    held.close()
    (await waiter).release()
    assert limiter.refusal(20) is None
    await asyncio.sleep(0)


@pytest.mark.gen_test
async def test_callers_that_are_admitted_count_until_they_come():
    """A loop that is late has read many requests before the first of them asks for a slot."""
    limiter = AdmissionLimiter(2, name="writer", waiting_max=3)

    refusals = [limiter.refusal(20) for _ in range(20)]

    assert [refusal is None for refusal in refusals] == [True] * 5 + [False] * 15
    assert limiter.refused == 15
    await asyncio.sleep(0)
    assert limiter.refusal(20) is None  # none of them came
    await asyncio.sleep(0)


@pytest.mark.gen_test
async def test_where_none_may_wait_a_free_slot_is_given_all_the_same():
    limiter = AdmissionLimiter(1, name="writer", waiting_max=0)

    with await limiter.acquire(5), pytest.raises(PoolTimeout, match="0 callers wait"):
        await limiter.acquire(5)
    with await limiter.acquire(5):
        assert limiter.taken == 1


@pytest.mark.gen_test
async def test_who_is_exempt_waits_behind_as_many_as_there_are_and_newcomers_do_not_follow():
    limiter = AdmissionLimiter(1, name="writer", waiting_max=1)
    held = all_slots(limiter)
    served: list[str] = []

    async def caller(name: str, *, exempt: bool) -> None:
        with await limiter.acquire(20, exempt=exempt):
            served.append(name)

    waiters = [asyncio.ensure_future(caller("first", exempt=False))]
    await asyncio.sleep(0)
    waiters.append(asyncio.ensure_future(caller("exempt", exempt=True)))
    await asyncio.sleep(0)
    with pytest.raises(PoolTimeout):
        await caller("newcomer", exempt=False)
    held.close()
    await asyncio.gather(*waiters)

    assert served == ["first", "exempt"]


@pytest.mark.gen_test
async def test_without_a_number_a_burst_waits_however_large_it_is():
    """Nothing is known of a young queue: all are served that can be in time."""
    limiter = AdmissionLimiter(2, name="writer")
    held = all_slots(limiter)

    async def caller() -> None:
        with await limiter.acquire(60):
            pass

    callers = [asyncio.ensure_future(caller()) for _ in range(5000)]
    await asyncio.sleep(0)
    assert limiter.waiting == 5000
    held.close()
    await asyncio.gather(*callers)

    assert (limiter.refused, limiter.taken) == (0, 0)


@pytest.mark.gen_test
async def test_without_a_number_a_queue_that_stands_refuses_what_its_pace_cannot_serve():
    """Each slot is held as long as a caller would wait: the queue takes one newcomer a slot, and one for each
    that was served meanwhile."""

    limiter = AdmissionLimiter(2, name="writer")
    patience_s = 0.4
    first = [limiter.acquire_nowait(), limiter.acquire_nowait()]
    waiting = [asyncio.ensure_future(limiter.acquire(60)) for _ in range(4)]
    await asyncio.sleep(0)
    first.clear()  # two are served, and two wait
    taken = [await waiter for waiter in waiting[:2]]
    await asyncio.sleep(patience_s * 0.75)
    taken[0].release()  # a third one, within the time that is looked at
    await asyncio.sleep(patience_s * 0.5)

    began = time.monotonic()
    newcomers = [asyncio.ensure_future(limiter.acquire(patience_s)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused_at_once = sum(newcomer.done() for newcomer in newcomers)
    took_s = time.monotonic() - began

    assert limiter.waiting == 2 + 1  # two slots, and one that was served in the last 0.4 s
    assert refused_at_once == 40 - 2
    assert took_s < patience_s
    with pytest.raises(PoolTimeout, match="and 3 callers wait for one already"):
        await newcomers[-1]
    # A slot that is free ends it: the next burst waits its turn.
    taken[1].release()
    for waiter in waiting[2:]:
        (await waiter).release()
    for newcomer in newcomers[:2]:
        (await newcomer).release()
    await asyncio.gather(*newcomers, return_exceptions=True)
    held = all_slots(limiter)
    burst = [asyncio.ensure_future(limiter.acquire(20)) for _ in range(40)]
    await asyncio.sleep(0)
    assert limiter.waiting == 40
    held.close()
    for waiter in burst:
        (await waiter).release()
    assert limiter.taken == 0


# -- whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "cancel", "time out", "release", "drop", "close", "turn"]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 3), waiting_max=st.sampled_from([None, 0, 2]), steps=STEPS)
def test_whatever_happens_no_slot_is_lost_or_doubled_and_the_first_is_the_first(
    size: int, waiting_max: int | None, steps: list[tuple[str, int]]
):
    """Callers, cancellations, releases and drops in any order, and in the end all are free."""

    async def act() -> None:
        limiter = AdmissionLimiter(size, name="writer", waiting_max=waiting_max)
        held: list[Slot] = []
        served: list[int] = []
        waiters: list[asyncio.Future[None]] = []
        by_hand: list[Coroutine[object, object, Slot]] = []

        async def acquire(number: int, timeout_s: float) -> None:
            held.append(await limiter.acquire(timeout_s))
            served.append(number)

        for step, which in steps:
            if step in ("acquire", "time out"):
                for _ in range(2):  # a waiter that was given a slot resumes, and is noted before this caller
                    await asyncio.sleep(0)
                waiters.append(asyncio.ensure_future(acquire(len(waiters), 5 if step == "acquire" else 0.0)))
                await asyncio.sleep(0)
            elif step == "cancel" and waiters:
                waiters[which % len(waiters)].cancel()
            elif step == "release" and held:
                released = held.pop(which % len(held))
                released.release()
                released.release()
            elif step == "drop" and held:
                del held[which % len(held)]
                for _ in range(2):  # its waiter is woken a turn later: the collector calls from anywhere
                    await asyncio.sleep(0)
            elif step == "close" and waiting_max is None and limiter.taken == size:
                coroutine = limiter.acquire(5)
                coroutine.send(None)
                by_hand.append(coroutine)  # closed in the queue, or with a slot that it has been given
            else:
                await asyncio.sleep(0)
            assert len(held) <= size
            assert limiter.taken <= size
            if waiting_max is not None:
                assert limiter.waiting <= waiting_max
        for coroutine in by_hand:
            coroutine.close()
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert served == sorted(served)
        assert (limiter.taken, limiter.waiting) == (len(held), 0)
        held.clear()
        assert (limiter.taken, limiter.waiting) == (0, 0)

    run(act())


def test_many_threads_and_many_tasks_with_little_patience():
    """A storm: no more slots are held than there are, and no caller is forgotten."""
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
                with limiter.acquire_blocking(limit):
                    enter(1)
                    time.sleep(0.0005)
                    enter(-1)
            except PoolTimeout:
                continue

    async def request(limit: float, cancelled_after_s: float | None) -> None:
        async def once() -> None:
            with await limiter.acquire(limit):
                enter(1)
                try:
                    await asyncio.sleep(0.0005)
                finally:
                    enter(-1)

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
    assert len([limiter.acquire_nowait() for _ in range(3)]) == 3


@pytest.mark.gen_test
async def test_callers_that_are_admitted_and_never_come_do_not_begin_a_queue():
    """As of requests that are 422 before their first call: a later burst finds an empty queue."""
    limiter = AdmissionLimiter(1, name="writer")
    for _ in range(3):
        assert limiter.refusal(0.05) is None
    await asyncio.sleep(0.1)

    burst = [limiter.refusal(0.05) for _ in range(5)]

    assert burst == [None] * 5
    await asyncio.sleep(0)
