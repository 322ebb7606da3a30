"""Jobs, once more on MariaDB."""

from __future__ import annotations

import pytest

from tests.again import again
from tests.db import test_jobs

globals().update(again(test_jobs))

pytestmark = [pytest.mark.debian, pytest.mark.gen_test]


@pytest.fixture
def backend() -> str:
    return "mariadb"
