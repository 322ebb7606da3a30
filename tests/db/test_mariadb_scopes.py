"""Units of work of scripts and jobs, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.db import test_session_scope

# What refuses a COMMIT there, stops a statement or is looked for in a message is SQL of the other two.
OTHERS_SQL = ("test_a_drivers_error_comes_translated_at_a_statement_and_at_the_end",)

globals().update(again(test_session_scope, but=OTHERS_SQL))

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
