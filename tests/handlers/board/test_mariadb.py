"""The board over HTTP, on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers.board import (
    test_bulk,
    test_claim,
    test_export,
    test_preconditions,
    test_tasks,
    test_teams,
)

# What stops a statement or is looked for in a message is SQL of the other two.
OTHERS_SQL = (
    "test_a_client_that_leaves_takes_its_export_along",
    "test_the_seed_documents_row_is_answered_as_the_contract_prints_it",
)

globals().update(
    again(test_bulk, test_claim, test_export, test_preconditions, test_tasks, test_teams, but=OTHERS_SQL)
)

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
