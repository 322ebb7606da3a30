"""What hangs is killed, and reported."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from conf import DatabaseSettings
from server.compare.processes import Ended, Hung, Worker, when_closed
from server.compare.verdict_table import verdicts
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def answer(pipe: Connection, text: str) -> None:
    pipe.send((os.getpid(), text))
    pipe.poll(None)


def hang(pipe: Connection) -> None:
    pipe.send(os.getpid())
    time.sleep(60)


def fall_over(pipe: Connection) -> None:
    os._exit(3)


def end_with_the_pipe(pipe: Connection) -> None:
    when_closed(pipe, lambda: os._exit(0))
    pipe.send(os.getpid())
    time.sleep(60)


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    """The process that all others are forked from; it stays for the run."""
    with Worker(answer, "up") as worker:
        worker.receive(30)


def is_gone(pid: int) -> bool:
    return wait_until(lambda: not psutil.pid_exists(pid), timeout_s=5)


def test_a_process_answers_and_ends(backend):
    with Worker(answer, "here") as worker:
        pid, text = worker.receive(10)

    assert text == "here"
    assert is_gone(pid)


def test_a_process_that_hangs_is_killed(backend):
    """Its function holds the whole process up: no deadline of its own could end it."""
    with Worker(hang) as worker:
        pid = worker.receive(10)
        with pytest.raises(Hung, match=r"within 0\.1 s"):
            worker.receive(0.1)

    assert is_gone(pid)


def test_a_process_that_falls_over_is_noticed(backend):
    with Worker(fall_over) as worker, pytest.raises(Ended, match="ended with 3"):
        worker.receive(10)


def test_a_process_ends_with_its_parent(backend):
    """As when the command is killed: the pipe closes."""
    with Worker(end_with_the_pipe) as worker:
        pid = worker.receive(10)
        worker.pipe.close()
        assert is_gone(pid)


def test_a_scenario_that_hangs_is_reported_and_the_next_one_runs(scratch: DatabaseSettings):
    """With a deadline of 0 s each of them hangs; each is reported so, and none is waited for."""
    steps = [("plain_async", "explicit"), ("plain_async", "registry")]

    results = list(verdicts([scratch], steps, deadline_s=0.0))

    assert [step for step, _ in results] == steps
    assert [result["verdict"] for _, result in results] == ["hung", "hung"]


def test_a_scenario_gives_its_verdict_from_a_process_of_its_own(scratch: DatabaseSettings):
    [(_, result)] = verdicts([scratch], [("forgotten", "explicit")])

    assert (result["verdict"], result["reason"]) == ("refused", "TypeError")
    assert "missing 1 required positional argument" in result["evidence"]["sessions"][0]["raised"]
