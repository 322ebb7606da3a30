"""The promises of the session handler, and the board over HTTP, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import (
    test_bulk,
    test_claim,
    test_constraints,
    test_export,
    test_held_response,
    test_idempotency,
    test_outcome,
    test_preconditions,
    test_principals,
    test_tasks,
    test_teams,
)

# What refuses a COMMIT there, stops a statement or is looked for in a message is SQL of the other two.
OTHERS_SQL = (
    "test_a_client_that_leaves_takes_its_export_along",
    "test_who_awaits_finish_is_told_that_it_was_dropped",
    "test_a_refused_request_leaves_no_key",
    "test_the_seed_documents_row_is_answered_as_the_contract_prints_it",
)

globals().update(
    again(
        test_bulk,
        test_claim,
        test_constraints,
        test_export,
        test_held_response,
        test_idempotency,
        test_outcome,
        test_preconditions,
        test_principals,
        test_tasks,
        test_teams,
        but=OTHERS_SQL,
    )
)

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
