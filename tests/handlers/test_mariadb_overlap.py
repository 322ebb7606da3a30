"""Requests at the same time, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import test_overlap

globals().update(again(test_overlap))

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
