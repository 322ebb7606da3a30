"""The board under faults: what is served here, and the rows that its clients write, are the board's."""

from __future__ import annotations

import pytest

from tests.faults.ledger import Ledger, Resource
from tests.fixtures.board.service import client, make_application, service_module

__all__ = ["client", "make_application", "service_module"]

TASKS = Resource(
    "/tasks",
    "tasks",
    "change_id",
    {"bundle": "store", "granularity": "daily", "target_date": "2020-04-01"},
)


@pytest.fixture
def ledger() -> Ledger:
    """What this test's clients were told of tasks."""
    return Ledger(TASKS)
