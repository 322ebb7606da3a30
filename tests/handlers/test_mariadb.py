"""The promises of the session handler, and the board over HTTP, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import (
    test_bulk,
    test_claim,
    test_export,
    test_held_response,
    test_idempotency,
    test_outcome,
    test_overlap,
    test_preconditions,
    test_run_again,
    test_tasks,
    test_teams,
)

globals().update(
    again(
        test_bulk,
        test_claim,
        test_export,
        test_held_response,
        test_idempotency,
        test_outcome,
        test_overlap,
        test_preconditions,
        test_run_again,
        test_tasks,
        test_teams,
    )
)

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
