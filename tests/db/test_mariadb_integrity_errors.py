"""SQLAlchemy's errors in model code, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.db import test_integrity_errors

globals().update(again(test_integrity_errors))

pytestmark = [pytest.mark.debian, pytest.mark.gen_test]


@pytest.fixture
def backend() -> str:
    return "mariadb"
