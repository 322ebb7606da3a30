"""What is known of the last day: when a pool was full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from conf import DatabaseSettings
from db import Database
from server.monitoring.history import COUNTS, DAY_S, Full, History, Sampler
from server.monitoring.process import Process
from server.pages.live.chart import in_words
from server.pages.live.view import View

NOON = 1_795_867_200  # 2026-11-28 12:00 UTC
NONE_FULL = (False, False)


def put(history: History, second: int, *, process: int = 0, waiting: int = 0, full=(True, False)) -> None:
    history.put(process, second, [2.0, float(waiting), 0.0, 0.0, *[0.0] * len(COUNTS)], full)


def test_a_pool_that_was_full_is_known_for_a_day_and_no_longer():
    """To the second, with the most callers that waited."""
    history = History()
    for second, waiting in ((0, 0), (1, 7), (2, 3)):
        put(history, NOON + second, waiting=waiting)
    span = Full(0, NOON, NOON + 2, 3, 7)

    assert history.past(NOON + 13 * 3600).full == {"writer": [span], "reader": []}
    assert history.past(NOON + 2 + DAY_S - 1).full["writer"] == [span]
    assert history.past(NOON + 2 + DAY_S).full["writer"] == []


def test_a_pool_that_is_full_again_within_a_minute_is_so_in_the_same_span():
    history = History()
    for second in (0, 60, 121):
        put(history, NOON + second)
        put(history, NOON + second + 1, full=NONE_FULL)

    assert history.past(NOON + 200).full["writer"] == [
        Full(0, NOON + 121, NOON + 121, 1, 0),
        Full(0, NOON, NOON + 60, 2, 0),
    ]


def test_each_process_and_each_pool_has_its_own():
    history = History(2)
    put(history, NOON, process=0, full=(False, True))
    put(history, NOON + 5, process=1, waiting=4, full=(True, True))

    full = history.past(NOON + 9).full

    assert full["writer"] == [Full(1, NOON + 5, NOON + 5, 1, 4)]
    assert [span.process for span in full["reader"]] == [1, 0]


def test_the_worst_of_days_is_kept_whole_in_memory_that_does_not_grow():
    """As many spans as there can be in a day, after another such day."""
    history = History()
    seconds = range(NOON, NOON + 2 * DAY_S, 62)  # 61 s apart: another span each
    for second in seconds:
        put(history, second)

    full = history.past(seconds[-1]).full["writer"]

    assert [span.began_s for span in full] == [
        second for second in reversed(seconds) if second > seconds[-1] - DAY_S
    ]


@pytest.fixture(params=["UTC0", "CET-1"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The zone of this process: its name where pages show it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield {"UTC0": "12:00:00|12:00:14 UTC", "CET-1": "13:00:00|13:00:14 UTC+01:00"}[request.param]
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "waiting", "told"),
    [(15, 7, "up to 7 waiting"), (9, 7, "in 9 of 15 s, up to 7 waiting"), (15, 0, "none waiting")],
)
def test_it_is_told_with_the_zone_and_with_the_day_that_is_not_today(
    seconds: int, waiting: int, told: str, zone: str
):
    """In the server's own zone, as lines of its log on a terminal are."""
    span = Full(1, NOON, NOON + 14, seconds, waiting)

    when = zone.replace("|", " to ")
    assert in_words(span, NOON + 60) == f"process 1: {when}, {told}"
    assert in_words(span, NOON + DAY_S - 1) == f"process 1: 2026-11-28 {when}, {told}"


def test_it_is_known_since_the_start_but_for_a_day_at_most(zone: str):
    past, at, of_zone = History().past(NOON), zone.partition("|")[0], zone.partition(" ")[2]

    known = [View(None, [], past, NOON - ago_s).since for ago_s in (0, 3 * DAY_S)]  # type: ignore[arg-type]

    assert known == [f"{at} {of_zone}", f"2026-11-27 {at} {of_zone}"]


class EarlyLoop:
    """Timers that fire a millisecond before their time, as uvloop's may."""

    def __init__(self) -> None:
        self.now = float(NOON)
        self._due: tuple[float, Callable[[], None]] | None = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._due = self.now + delay_s - 0.001, callback

    def fire(self) -> None:
        assert self._due is not None
        self.now, callback = self._due
        callback()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_timer_that_fires_early_loses_no_count(database: Database, monkeypatch: pytest.MonkeyPatch):
    """Two samples of one second would be one: what the first had counted would be gone."""
    loop, history, counted = EarlyLoop(), History(), [0.0] * len(COUNTS)
    monkeypatch.setattr("asyncio.get_running_loop", lambda: loop)
    monkeypatch.setattr("time.time", lambda: loop.now)
    sampler = Sampler(history, 0, database, lambda: [*counted])
    sampler.start()
    for _ in range(20):
        counted[0] += 3.0
        loop.fire()

    past = history.past(int(loop.now))
    monkeypatch.undo()

    assert past.counts[COUNTS[0]] == 60
    assert past.pools["writer"].taken[-20:] == [0] * 20


@pytest.mark.parametrize("into_s", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_first_sample_is_taken_within_a_second(
    database: Database, monkeypatch: pytest.MonkeyPatch, into_s: float
):
    """In the middle of a second, as all of them: a process that has just started is looked at too."""
    loop, history = EarlyLoop(), History()
    loop.now += into_s
    monkeypatch.setattr("asyncio.get_running_loop", lambda: loop)
    monkeypatch.setattr("time.time", lambda: loop.now)
    began = loop.now

    Sampler(history, 0, database, lambda: [0.0] * len(COUNTS)).start()
    loop.fire()

    monkeypatch.undo()
    assert loop.now - began < 1.0
    assert loop.now % 1.0 == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.gen_test
async def test_once_the_database_is_closed_no_sample_is_taken(database_settings: DatabaseSettings):
    """The first is due in 1 s at most."""
    database, process = Database(database_settings), Process()
    process.sampler(database).start()

    await database.close()
    await asyncio.sleep(1.6)

    assert {*process.history.past(int(time.time())).pools["writer"].taken} == {None}
