"""Requests under one Idempotency-Key at once, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import test_twins

globals().update(again(test_twins))

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
