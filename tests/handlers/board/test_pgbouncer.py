"""The export, with a PgBouncer before PostgreSQL."""

from __future__ import annotations

import pytest

from conf import DatabaseSettings, Settings, load_settings
from tests.again import again
from tests.fixtures.pgbouncer import Bouncer
from tests.handlers.board import test_export

globals().update(again(test_export))

pytestmark = [pytest.mark.debian, pytest.mark.gen_test]


@pytest.fixture(params=["postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def database_settings(database_url: str, bouncer: Bouncer) -> DatabaseSettings:
    return DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=2)


@pytest.fixture
def settings(database_settings: DatabaseSettings) -> Settings:
    assert database_settings.url is not None
    url = database_settings.url.get_secret_value()
    return load_settings(
        {"environment": "testing", "database.url": url, "database.pooler": "pgbouncer"}, environ={}
    )
