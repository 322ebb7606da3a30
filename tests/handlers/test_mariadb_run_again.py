"""Requests that conflict and run again, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import test_run_again

globals().update(again(test_run_again))

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
