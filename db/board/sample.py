"""A sample board: teams, tasks and transfers as they might have been in the spring of 2020.

Everything is made of a number: the same number gives the same rows on every machine.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from db.board.tasks import CANCELLED, FAILED, PASSED, QUEUED, RUNNING

CHUNK = 1000
"""Tasks that are made at a time."""

# The row that the project's first document shows.
FIRST_TASK: dict[str, Any] = {
    "id": "f2ee55c638084ebfb35a00c003670ad9",
    "task_status": QUEUED,
    "s3_keys": {},
    "bundle": "store",
    "granularity": "daily",
    "target_date": date(2020, 4, 1),
    "change_id": 3,
    "team_id": None,
    "version": 1,
    "create_time": datetime(2020, 3, 1, tzinfo=UTC),
    "update_time": datetime(2020, 6, 3, 10, 45, 0, 287701, tzinfo=UTC),
}

_BEGIN = datetime(2020, 3, 1, tzinfo=UTC)
_DAYS = 122
_END = _BEGIN + timedelta(days=_DAYS)
_CHANGES_A_DAY = 8

_BUNDLES = {  # how many of a hundred tasks are about each
    "store": 22,
    "basket": 14,
    "checkout": 13,
    "search": 12,
    "catalog": 10,
    "payments": 8,
    "shipping": 7,
    "returns": 5,
    "reviews": 4,
    "accounts": 3,
    "newsletter": 2,
}
_GRANULARITIES = {"hourly": 15, "daily": 60, "weekly": 20, "monthly": 5}
_NOTES = ("first look", "load is uneven", "knows this data", "on call this week", "follow-up", None)
_TEAMS = (
    "Store QA",
    "Basket and Checkout QA",
    "Search QA",
    "Catalog QA",
    "Payments QA",
    "Logistics QA",
    "Accounts QA",
    "Release QA",
)


class Chunk(NamedTuple):
    """Some tasks, and the log of those of them that have moved."""

    tasks: list[dict[str, Any]]
    transfers: list[dict[str, Any]]


def team_names(count: int) -> list[str]:
    """Names of teams, no two alike."""
    rounds = (name if turn == 1 else f"{name} {turn}" for turn in itertools.count(1) for name in _TEAMS)
    return list(itertools.islice(rounds, count))


def chunks(count: int, *, team_ids: Sequence[int], random_seed: int) -> Iterator[Chunk]:
    """Tasks by the thousand, the first of which is `FIRST_TASK`.

    Args:
        count: how many in all.
        team_ids: the teams that most of them belong to.
        random_seed: another number gives other tasks.
    """
    seeds = random.Random(f"onfinish {random_seed}")
    for at in range(0, count, CHUNK):
        chunk = Chunk([], [])
        for number in range(at, min(at + CHUNK, count)):
            # Numbers of its own for each: a smaller sample is the start of a larger one, whatever the teams.
            task, log = _task(random.Random(seeds.getrandbits(64)), team_ids)
            chunk.tasks.append(task if number else FIRST_TASK)
            chunk.transfers.extend(log if number else [])
        yield chunk


def _task(rng: random.Random, team_ids: Sequence[int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    day = rng.randrange(_DAYS)
    created = _BEGIN + timedelta(days=day, microseconds=rng.randrange(86_400_000_000))
    task_id = f"{rng.getrandbits(128):032x}"
    (bundle,) = rng.choices([*_BUNDLES], [*_BUNDLES.values()])
    (granularity,) = rng.choices([*_GRANULARITIES], [*_GRANULARITIES.values()])
    target = _target(created.date() + timedelta(days=rng.randrange(-3, 15)), granularity)
    moments = [created]
    status = _status(rng, day)
    moments += [_after(rng, moments[-1])] if status != QUEUED else []  # taken up, or cancelled
    moments += [_after(rng, moments[-1])] if status in (PASSED, FAILED) else []
    team_id = rng.choice(team_ids) if team_ids and rng.random() < 0.85 else None
    transfers = []
    if team_id is not None and rng.random() < 0.1:
        moments.append(_after(rng, moments[-1]))
        others = [None, *(other for other in team_ids if other != team_id)]
        transfers.append(
            {
                "task_id": task_id,
                "from_team_id": rng.choice(others),
                "to_team_id": team_id,
                "note": rng.choice(_NOTES),
                "create_time": moments[-1],
            }
        )
    folder = f"qa/{bundle}/{granularity}/{target.isoformat()}"
    s3_keys = {"input": f"{folder}/input.parquet", "rules": f"{folder}/rules.json"}
    if status in (PASSED, FAILED):
        s3_keys["report"] = f"{folder}/report-{task_id[:8]}.html"
    task = {
        "id": task_id,
        "task_status": status,
        "s3_keys": s3_keys,
        "bundle": bundle,
        "granularity": granularity,
        "target_date": target,
        "change_id": 1 + day * _CHANGES_A_DAY + rng.randrange(_CHANGES_A_DAY),
        "team_id": team_id,
        "version": len(moments),
        "create_time": created,
        "update_time": moments[-1],
    }
    return task, transfers


def _status(rng: random.Random, day: int) -> int:
    """What is old is done; of the last days' work some is queued still, or running."""
    weights = (1, 1, 86, 8, 4) if day < _DAYS - 3 else (60, 15, 20, 3, 2)
    (status,) = rng.choices((QUEUED, RUNNING, PASSED, FAILED, CANCELLED), weights)
    return status


def _after(rng: random.Random, moment: datetime) -> datetime:
    """Some minutes or hours later, but not after the end of what there is."""
    later = moment + timedelta(seconds=rng.expovariate(1 / 3600) + 1)
    return min(later, max(_END, moment + timedelta(seconds=1)))


def _target(day: date, granularity: str) -> date:
    """The day that stands for a week is its Monday, that of a month its first."""
    if granularity == "weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if granularity == "monthly" else day
