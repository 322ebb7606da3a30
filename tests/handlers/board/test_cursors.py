"""Cursors: made of a place, and nothing else is taken for one."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given, strategies as st

from db.board.tasks import Position, TaskFilter
from handlers.board.cursors import cursor_of, position_of
from handlers.lifecycle.errors import Problem

HERE = Position(datetime(2020, 6, 3, 10, 45, 0, 287701, tzinfo=UTC), "f2ee55c638084ebfb35a00c003670ad9")


@given(st.datetimes(timezones=st.just(UTC)), st.binary(min_size=16, max_size=16))
def test_a_place_comes_back_to_the_microsecond(moment: datetime, task_id: bytes):
    position = Position(moment, task_id.hex())

    assert position_of(cursor_of(position, TaskFilter()), TaskFilter()) == position


def test_a_cursor_needs_no_escaping_in_a_url():
    assert cursor_of(HERE, TaskFilter()).replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "other",
    [
        TaskFilter(),
        TaskFilter(status=102),
        TaskFilter(bundle="101"),
        TaskFilter(status=101, target_to=date(2020, 1, 1)),
    ],
)
def test_a_cursor_belongs_to_its_filters(other: TaskFilter):
    cursor = cursor_of(HERE, TaskFilter(status=101))

    with pytest.raises(Problem, match="other filters") as refused:
        position_of(cursor, other)

    assert refused.value.status_code == 400


@given(st.text(max_size=60) | st.text("ABCabc019-_", min_size=43, max_size=43))
def test_what_is_made_up_is_400(cursor: str):
    with pytest.raises(Problem) as refused:
        position_of(cursor, TaskFilter())

    assert refused.value.status_code == 400


def test_a_moment_out_of_range_is_400():
    """The right length and the right filters, and a time that no clock shows."""
    import base64

    packed = bytearray(base64.urlsafe_b64decode(cursor_of(HERE, TaskFilter()) + "="))
    packed[0] = 0x7F

    with pytest.raises(Problem, match="cannot be read"):
        position_of(base64.urlsafe_b64encode(packed).decode().rstrip("="), TaskFilter())
