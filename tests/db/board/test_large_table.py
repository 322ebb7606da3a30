"""The list at a million rows on PostgreSQL: what each page reads, the first one and those far behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from db.board import tasks
from db.board.tasks import Position, TaskFilter
from db.schema import migrate
from tests.fixtures.board.large import ROWS

pytestmark = pytest.mark.slow

LIMIT = 51  # a page of 50, and the one more that tells of another
A_PAGE = 130
"""Blocks of a page of 51 rows, where each row lies in a block of its own, with what the index takes."""

A_WALK = 1000
"""Blocks of a first page where PostgreSQL takes the list's own index for a status that most tasks have, since
the table lies in that order, and the newest are of another: it passes those over, once."""

LAST_DAY = date(2020, 4, 25)

ONE = {
    "nothing": TaskFilter(),
    "queued": TaskFilter(status=101),
    "passed": TaskFilter(status=200),
    "cancelled": TaskFilter(status=99),
    "a bundle": TaskFilter(bundle="search"),
    "a granularity": TaskFilter(granularity="monthly"),
    "a team": TaskFilter(team_id=7),
    "a day": TaskFilter(target_from=date(2020, 2, 1), target_to=date(2020, 2, 1)),
}
RANGES = {
    "days to come": TaskFilter(target_from=LAST_DAY),
    "a month": TaskFilter(target_from=date(2020, 4, 1), target_to=date(2020, 4, 30)),
    "a week long ago": TaskFilter(target_from=date(2020, 1, 10), target_to=date(2020, 1, 16)),
    "long ago": TaskFilter(target_to=date(2020, 1, 10)),
}
SEVERAL = {
    "status and bundle": TaskFilter(status=400, bundle="search"),
    "status and granularity": TaskFilter(status=99, granularity="monthly"),
    "status and team": TaskFilter(status=200, team_id=7),
    "bundle and granularity": TaskFilter(bundle="basket", granularity="weekly"),
    "bundle and team": TaskFilter(bundle="store", team_id=3),
    "granularity and team": TaskFilter(granularity="hourly", team_id=3),
    "team and month": TaskFilter(team_id=7, target_from=date(2020, 4, 1), target_to=date(2020, 4, 30)),
    "bundle and day": TaskFilter(bundle="store", target_from=date(2020, 2, 1), target_to=date(2020, 2, 1)),
    "all of them": TaskFilter(
        status=200,
        bundle="store",
        granularity="daily",
        team_id=3,
        target_from=date(2020, 2, 1),
        target_to=date(2020, 3, 31),
    ),
}


class Cost(NamedTuple):
    """What one page has read: blocks of eight KiB, through which indices, and any scan of the whole table."""

    blocks: int
    rows: int
    indices: list[str]
    whole_table: bool


@pytest.fixture
def large(large_url: str) -> Iterator[Database]:
    """The same, through `Database`."""
    database = Database(DatabaseSettings(url=large_url))
    yield database
    database.dispose()


def cost_of(session: Session, where: TaskFilter, after: Position | None) -> Cost:
    """Explain the very statement that the list sends, and run it, so that blocks are counted."""
    sent: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *rest: object) -> None:
        sent.append((statement, parameters))

    engine = session.connection().engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        tasks.list_tasks(session, where=where, limit=LIMIT, after=after)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    [(statement, parameters)] = sent
    explained = session.connection().exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
    )
    plan = explained.scalar_one()
    [top] = json.loads(plan) if isinstance(plan, str) else plan
    nodes = list(_nodes(top["Plan"]))
    return Cost(
        blocks=top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"],
        rows=top["Plan"]["Actual Rows"],
        indices=[node["Index Name"] for node in nodes if "Index Name" in node],
        whole_table=any(node["Node Type"] in ("Seq Scan", "Parallel Seq Scan") for node in nodes),
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def place(session: Session, where: TaskFilter, part: float) -> Position:
    """The place in a list that this part of it lies before."""
    given = tasks._given(where)
    query = session.query(tasks.Task.create_time, tasks.Task.id)
    query = query.filter(*(tasks._CONDITIONS[name] for name in given)).params(given)
    found = (
        query.order_by(tasks.Task.create_time.desc(), tasks.Task.id.desc())
        .offset(int(query.count() * part))
        .limit(1)
        .one()
    )
    return Position(*found)


def test_every_page_is_read_off_an_index_and_a_deep_one_costs_no_more_than_the_first(large: Database):
    """Each filter alone, ranges of dates, several at once. Counted in blocks, which depend on no clock."""
    faults: list[tuple[str, str, list[Cost]]] = []
    with large.session_scope(read_only=True) as session:
        for name, where in (ONE | RANGES | SEVERAL).items():
            positions = [None, *(place(session, where, part) for part in (0.5, 0.9))]
            costs = [cost_of(session, where, after) for after in positions]
            indices = sorted({index for cost in costs for index in cost.indices})
            print(f"{name:24} {[cost.blocks for cost in costs]} {indices}")
            faults += [(name, fault, costs) for fault in faults_of(costs, one=name in ONE)]

    assert faults == []


def faults_of(costs: list[Cost], *, one: bool) -> Iterator[str]:
    """What is wrong with a first page and some behind it; of ``one`` filter, more is asked."""
    first, *deep = costs
    deepest = max(cost.blocks for cost in deep)
    if any(cost.whole_table or not cost.indices for cost in costs):
        yield "no index is used"
    if any(cost.rows != LIMIT for cost in costs):
        yield "a page is not full"
    if deepest > max(2 * first.blocks, first.blocks + 200):
        yield "deep pages cost more than the first"
    if one and (first.blocks > A_WALK or deepest > A_PAGE):
        yield "a page costs more than its rows"


def test_the_deepest_page_of_all_costs_as_much_as_the_first(large: Database):
    """Page 20,000: a list that counted off what it passes over would read a million rows."""
    with large.session_scope(read_only=True) as session:
        last = cost_of(session, TaskFilter(), place(session, TaskFilter(), 0.9999))
        first = cost_of(session, TaskFilter(), None)

    assert last.blocks <= first.blocks + 50


def test_a_range_of_dates_that_matches_nothing_is_found_out_in_the_index(large: Database):
    """The worst there is: the whole index is read, and no row. A hundredth of what the rows would be."""
    where = TaskFilter(target_from=date(1990, 1, 1), target_to=date(1990, 12, 31))
    with large.session_scope(read_only=True) as session:
        cost = cost_of(session, where, None)

    assert cost.rows == 0
    assert not cost.whole_table
    assert cost.blocks < 20_000


def test_the_table_is_as_large_as_is_said(large: Database):
    """Else all the others say nothing."""
    with large.session_scope(read_only=True) as session:
        assert session.query(tasks.Task).count() == ROWS
        assert migrate.current_on(session.connection()) == migrate.head()
