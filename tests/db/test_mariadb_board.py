"""The model functions, their lifecycle and the queues before the database, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.db import (
    test_async_unit_of_work,
    test_base,
    test_database,
    test_health,
    test_session_scope,
    test_tasks,
    test_teams,
    test_transfers,
    test_unit_of_work,
)

globals().update(
    again(
        test_tasks,
        test_teams,
        test_transfers,
        test_base,
        test_database,
        test_health,
        test_session_scope,
        test_unit_of_work,
        test_async_unit_of_work,
    )
)

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
