"""What is logged to a reader that is slow: kept, counted, written in order, by whichever way there is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterator

import pytest

from conf.outlet import KEPT_MAX_BYTES, Outlet
from tests.fixtures.waiting import wait_until

Pipe = tuple[int, int]

UNPRIVILEGED = 65_534


def gap(missing: int) -> bytes:
    return b"missing %d\n" % missing


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """The two ends of the smallest pipe that there is."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


@contextlib.contextmanager
def as_a_user_without_rights_to_open(fd: int) -> Iterator[None]:
    """As a process has it that was given the pipe and then changed its user."""
    os.fchmod(fd, 0)
    if os.getuid() == 0:
        os.seteuid(UNPRIVILEGED)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.fixture(params=["opened anew", "not to be opened", "made non-blocking by another"])
def outlet(request: pytest.FixtureRequest, pipe: Pipe) -> Iterator[Outlet]:
    """To a pipe that is not read yet."""
    with contextlib.ExitStack() as stack:
        if request.param == "not to be opened":
            stack.enter_context(as_a_user_without_rights_to_open(pipe[1]))
        if request.param == "made non-blocking by another":
            os.set_blocking(pipe[1], False)
        outlet = Outlet(pipe[1], gap=gap)
    yield outlet
    outlet.close()
    drain(pipe)
    assert wait_until(lambda: not log_threads())


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "onfinish-log"]


def drain(pipe: Pipe, *, until: bytes = b"") -> bytes:
    """What can be read, at least until it ends with something."""
    os.set_blocking(pipe[0], False)
    found = bytearray()
    give_up_at = time.monotonic() + 20
    while time.monotonic() < give_up_at:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(pipe[0], 1 << 20):
                found += piece
        if found.endswith(until):
            break
        time.sleep(0.01)
    return bytes(found)


def test_a_caller_never_waits_and_what_is_kept_comes_in_order(outlet: Outlet, pipe: Pipe):
    records = [b"%d %s\n" % (number, b"x" * 500) for number in range(300)]

    for record in records:
        outlet.write(record)

    assert drain(pipe, until=records[-1]) == b"".join(records)


def test_a_record_longer_than_the_pipe_comes_whole(outlet: Outlet, pipe: Pipe):
    long = b"x" * 2 * KEPT_MAX_BYTES + b"\n"

    outlet.write(long)
    outlet.write(b"short\n")

    found = drain(pipe, until=b"\n")
    found += b"" if found.endswith(b"missing 1\n") else drain(pipe, until=b"missing 1\n")
    assert found == long + b"missing 1\n"


def test_what_there_is_no_room_for_is_counted_where_it_is_missing(outlet: Outlet, pipe: Pipe):
    written = 0
    for _ in range(3 * KEPT_MAX_BYTES // 1000):
        outlet.write(b"%999d\n" % written)
        written += 1

    found = b""
    while not re.search(rb"missing \d+\n", found):
        found += drain(pipe, until=b"\n")
    outlet.write(b"the end\n")
    found += drain(pipe, until=b"the end\n")

    lines = found.splitlines()
    gaps = [number for number, line in enumerate(lines) if line.startswith(b"missing")]
    assert gaps == [len(lines) - 2]
    assert [int(line) for line in lines[: gaps[0]]] == list(range(gaps[0]))
    assert gaps[0] + int(lines[gaps[0]].split()[1]) == written


def test_a_forked_process_writes_nothing_of_its_parents(outlet: Outlet, pipe: Pipe):
    for number in range(100):
        outlet.write(b"%99d\n" % number)

    pid = os.fork()
    if pid == 0:
        outlet.write(b"the child\n")
        outlet.flush(5)
        os._exit(0)

    found = drain(pipe, until=b"")
    assert wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
    while found.count(b"\n") < 101:
        found += drain(pipe, until=b"\n")
    assert sorted(found.split()) == sorted([*(b"%d" % number for number in range(100)), b"the", b"child"])


def test_the_end_waits_for_a_reader_but_not_long(outlet: Outlet, pipe: Pipe):
    for _ in range(100):
        outlet.write(b"x" * 99 + b"\n")
    outlet.write(b"the end\n")
    began = time.monotonic()
    outlet.flush(0.2)
    assert 0.15 < time.monotonic() - began < 5

    reader = threading.Timer(0.1, drain, [pipe], {"until": b"the end\n"})
    reader.start()
    outlet.flush(20)

    reader.join()
    assert time.monotonic() - began < 10


def test_a_reader_that_is_gone_costs_no_more_than_the_records(pipe: Pipe):
    outlet = Outlet(pipe[1], gap=gap)
    os.close(pipe[0])

    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            outlet.write(b"x\n")

    outlet.flush(5)
    outlet.close()
