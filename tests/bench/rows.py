"""The rows that every measurement begins with: the same ones each time, so that answers can be foretold."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

# Task number n, as `task` has it.
_SEED = """
    INSERT INTO tasks (id, s3_keys, bundle, granularity, target_date, change_id, create_time, update_time)
    SELECT md5(n::text), json_build_object('report', 's3://qa/' || n), 'store', 'daily',
        DATE '2020-04-01' + n %% 100, n, moment, moment
    FROM generate_series(1, %s) AS n,
        LATERAL (SELECT TIMESTAMPTZ '2020-03-01 00:00:00Z' + n * INTERVAL '1.000001 seconds' AS moment) AS at
"""
_FIRST_MOMENT = datetime(2020, 3, 1, tzinfo=UTC)

NEW = {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01", "change_id": 3}
"""The body of a creation."""


def seed(cursor: Any, rows: int) -> None:
    """Add tasks number 1 to ``rows`` to an empty board, and have the tables looked through."""
    cursor.execute(_SEED, (rows,))
    cursor.execute("VACUUM ANALYZE tasks")


def task_id(number: int) -> str:
    """The id of a task."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def task(number: int) -> dict[str, Any]:
    """A task as it is to be answered."""
    moment = _FIRST_MOMENT + timedelta(seconds=number, microseconds=number)
    text = moment.isoformat().removesuffix("+00:00") + "Z"
    return {
        "id": task_id(number),
        "task_status": 101,
        "s3_keys": {"report": f"s3://qa/{number}"},
        "bundle": "store",
        "granularity": "daily",
        "target_date": (date(2020, 4, 1) + timedelta(days=number % 100)).isoformat(),
        "change_id": number,
        "team_id": None,
        "version": 1,
        "create_time": text,
        "update_time": text,
    }
