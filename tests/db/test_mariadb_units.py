"""What a unit of work and the types of columns promise, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.db import test_base, test_database, test_health, test_recorder, test_unit_of_work

# What refuses a COMMIT, stops a statement or is looked for in a message there is SQL of the other two; and
# one has a deadline in fractions of what connecting takes here.
OTHERS_SQL = (
    "test_closing_stops_and_undoes_what_is_under_way",
    "test_a_function_that_used_another_database_can_be_stopped",
    "test_a_commit_that_fails_leaves_nothing_for_the_next_user",
    "test_no_connection_goes_back_to_the_pool_in_a_transaction",
    "test_an_error_that_was_caught_is_not_committed_over",
    "test_a_connection_that_cannot_be_rolled_back_is_thrown_away",
    "test_a_deadline_is_looked_at_before_every_statement_and_before_commit",
)

globals().update(
    again(test_base, test_database, test_health, test_recorder, test_unit_of_work, but=OTHERS_SQL)
)

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
