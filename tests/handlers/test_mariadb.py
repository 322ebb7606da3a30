"""The promises of the session handler, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import (
    test_constraints,
    test_held_response,
    test_idempotency,
    test_outcome,
    test_principals,
)

# What refuses a COMMIT there, stops a statement or is looked for in a message is SQL of the other two.
OTHERS_SQL = (
    "test_an_awaited_finish_raises_when_the_answer_was_dropped",
    "test_a_refused_request_leaves_no_key",
)

globals().update(
    again(
        test_constraints,
        test_held_response,
        test_idempotency,
        test_outcome,
        test_principals,
        but=OTHERS_SQL,
    )
)

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
