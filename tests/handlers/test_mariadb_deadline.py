"""A request's deadline once more on MariaDB, whose statements are killed over a connection of their own."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.handlers import test_deadline

globals().update(again(test_deadline))

pytestmark = pytest.mark.debian


@pytest.fixture
def backend() -> str:
    return "mariadb"
