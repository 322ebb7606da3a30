"""Threads that are used again: what is accepted is done once, what is refused or withdrawn is never done."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from db.capacity.threads import Threads
from db.errors import Unavailable
from tests.fixtures.logs import ExpectLog
from tests.fixtures.process import ROOT
from tests.fixtures.waiting import wait_until

LONG_S = 30.0
"""A limit on what takes no time where all is well."""


class Gate:
    """Work that waits until it is opened, and notes its thread. Lives as long as its test."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self._open = threading.Event()

    def __call__(self) -> None:
        self.threads.append(threading.current_thread().name)
        assert self._open.wait(LONG_S)

    def open(self) -> None:
        self._open.set()

    def wait_until_begun(self) -> None:
        assert wait_until(lambda: bool(self.threads), timeout_s=LONG_S)


@pytest.fixture
def make() -> Iterator[Callable[[int], Threads]]:
    """``make(2)``: two threads at most, closed at the end of the test."""
    made: list[Threads] = []

    def start(size: int) -> Threads:
        threads = Threads(size, name="test")
        made.append(threads)
        return threads

    yield start
    for threads in made:
        threads.close(wait=True)


def names() -> set[str]:
    """The threads that there are of such a name."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("test_")}


def done(threads: Threads) -> str:
    """Do a piece of work, and return the name of its thread."""
    reported = threading.Event()
    name = ""

    def work() -> Callable[[], None]:
        nonlocal name
        name = threading.current_thread().name
        return reported.set

    threads.submit(work)
    assert reported.wait(LONG_S)
    return name


def test_a_thread_is_started_for_work_and_not_before(make: Callable[[int], Threads]):
    threads = make(2)
    before = names()

    assert before == set()
    assert done(threads) == "test_0"
    assert names() == {"test_0"}


def test_what_follows_from_work_is_done_by_the_same_thread(make: Callable[[int], Threads]):
    """It is idle before it reports, so one after the other needs one thread alone."""
    threads = make(5)

    used = {done(threads) for _ in range(100)}

    assert used == {"test_0"}


def test_there_are_never_more_threads_than_allowed_and_the_queue_is_served_in_order(
    make: Callable[[int], Threads],
):
    threads, gates = make(2), [Gate(), Gate()]
    order: list[int] = []
    for gate in gates:
        threads.submit(gate)
        gate.wait_until_begun()

    for number in range(20):
        threads.submit(lambda number=number: order.append(number))  # type: ignore[misc]

    assert order == []
    gates[0].open()
    assert wait_until(lambda: len(order) == 20, timeout_s=LONG_S)
    gates[1].open()
    assert order == list(range(20))
    assert names() == {"test_0", "test_1"}


def test_what_is_withdrawn_is_never_done_and_what_has_begun_cannot_be(make: Callable[[int], Threads]):
    threads, gate = make(1), Gate()
    called: list[str] = []
    threads.submit(gate)
    gate.wait_until_begun()

    def first() -> None:
        called.append("first")

    def second() -> None:
        called.append("second")

    threads.submit(first)
    threads.submit(second)

    assert threads.withdraw(first)
    assert not threads.withdraw(first)
    assert not threads.withdraw(gate)
    gate.open()
    done(threads)
    assert called == ["second"]


def test_closed_threads_do_what_was_accepted_and_accept_nothing_more(make: Callable[[int], Threads]):
    threads, gate = make(1), Gate()
    called: list[int] = []
    threads.submit(gate)
    threads.submit(lambda: called.append(1))

    threads.close(wait=False)
    with pytest.raises(Unavailable, match="closed"):
        threads.submit(lambda: called.append(2))
    gate.open()
    threads.close(wait=True)

    assert called == [1]
    assert names() == set()


def test_work_that_fails_leaves_its_thread_whole(make: Callable[[int], Threads], expect_log: ExpectLog):
    threads = make(1)

    def fail() -> None:
        raise SystemExit("on purpose")

    with expect_log("onfinish.db", "^test_0: its work failed"):
        threads.submit(fail)
        name = done(threads)

    assert name == "test_0"


def test_an_idle_thread_holds_nothing_of_what_it_has_done(make: Callable[[int], Threads]):
    class Thing:
        """Something that can be asked whether it is still held."""

        def work(self) -> Callable[[], None]:
            return self.report

        def report(self) -> None:
            reported.set()

    reported = threading.Event()
    threads, thing = make(1), Thing()
    held = weakref.ref(thing)

    threads.submit(thing.work)
    assert reported.wait(LONG_S)
    del thing

    assert wait_until(lambda: held() is None)


def test_threads_that_are_dropped_end():
    threads = Threads(2, name="test")
    done(threads)

    del threads
    gc.collect()

    assert wait_until(lambda: names() == set(), timeout_s=LONG_S)


def test_a_process_that_never_closes_them_ends_all_the_same():
    """Idle threads end with it; work that is under way is waited for, as with any thread."""
    script = """
import time
from db.capacity.threads import Threads
kept = Threads(2, name="test")
kept.submit(lambda: None)
kept.submit(lambda: (time.sleep(0.5), print("done", flush=True)) and None)
"""

    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


HANGING = """
import asyncio, threading
from conf import DatabaseSettings
from db import Database, Jobs

begun = threading.Event()

def hang(*_):
    begun.set()
    threading.Event().wait()

async def main():
    database = Database(DatabaseSettings(url="sqlite://"))
    jobs = Jobs(database)
    BEGIN
    await asyncio.to_thread(begun.wait)
    await jobs.stop(0.1)
    await database.close(grace_s=0.1)
    print("closed")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "begin",
    ["database.in_thread(hang)", "jobs.every(0.01, hang)", "jobs.every(0.01, hang, in_transaction=False)"],
)
def test_a_job_or_a_function_that_follows_a_commit_and_hangs_does_not_hold_the_process(begin: str):
    """`close` waits a moment for it; an interpreter that waited for its thread would not end."""
    script = HANGING.replace("BEGIN", begin)

    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )

    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr


def test_whatever_is_submitted_is_done_once_or_withdrawn(make: Callable[[int], Threads]):
    """Four threads submit and withdraw at random: work is done once, or withdrawn, never both."""
    threads = make(3)
    rounds = 2_000
    outcomes: list[list[str]] = [[] for _ in range(4)]

    def drive(number: int) -> None:
        chance = random.Random(number)
        for _ in range(rounds):
            met: list[str] = []
            reported = threading.Event()

            def work(met: list[str] = met, reported: threading.Event = reported) -> Callable[[], None]:
                met.append("done")
                return reported.set

            threads.submit(work)
            if chance.random() < 0.5 and threads.withdraw(work):
                met.append("withdrawn")
            else:
                assert reported.wait(LONG_S)
            outcomes[number].append("+".join(met))

    drivers = [threading.Thread(target=drive, args=(number,)) for number in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    done(threads)

    assert [len(each) for each in outcomes] == [rounds] * 4
    assert {what for each in outcomes for what in each} <= {"done", "withdrawn"}


SHORT_OF_THREADS = """
import logging, resource, threading, time
from db.errors import Unavailable
from db.capacity.threads import Threads

STACK = 256 * 2**20
threading.stack_size(STACK)
threads, called = Threads(3, name="test"), []
gate, begun = threading.Event(), threading.Event()

def hold():
    begun.set()
    gate.wait()

def limit():
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + STACK // 2, resource.RLIM_INFINITY))

limit()
try:
    threads.submit(lambda: called.append("refused"))
except Unavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
threads.submit(hold)
begun.wait()
limit()
threads.submit(lambda: called.append("late"))
threads.submit(lambda: called.append("later"))
time.sleep(0.1)
print(called)
gate.set()
threads.close(wait=True)
print(called)
"""


def test_where_no_thread_can_be_started_older_ones_do_the_work_and_without_any_it_is_refused():
    """By the kernel's own limit."""
    ended = subprocess.run(
        [sys.executable, "-c", SHORT_OF_THREADS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    refusal, before, after = ended.stdout.splitlines()
    assert refusal == "the server has no thread to do this in; nothing was done"
    assert before == "[]"
    assert after == "['late', 'later']"


def test_where_not_even_a_threads_object_can_be_made_the_work_is_not_left_in_the_queue(
    make: Callable[[int], Threads], monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
):
    """An error for the caller, and an older thread that does the work all the same, would be a false answer.

    Memory that runs out at one line cannot be made to happen.
    """
    threads, done = make(2), list[str]()

    def run_out(*args: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, expect_log("onfinish.db", "no thread could be started"):
        patch.setattr(threading, "Thread", run_out)
        with pytest.raises(Unavailable):
            threads.submit(lambda: done.append("refused"))
    threads.submit(lambda: done.append("accepted"))

    assert wait_until(lambda: bool(done), timeout_s=LONG_S)
    assert done == ["accepted"]
