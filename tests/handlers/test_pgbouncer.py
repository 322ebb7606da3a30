"""The promises of the session handler, once more with a PgBouncer before PostgreSQL.

The tests are those of the modules named here; what differs is the way to the database.
"""

from __future__ import annotations

import pytest

from conf import DatabaseSettings, Settings, load_settings
from tests.fixtures.pgbouncer import Bouncer
from tests.handlers.test_deadline import *  # noqa: F403  # collected here too, with the fixtures below
from tests.handlers.test_idempotency import *  # noqa: F403
from tests.handlers.test_outcome import *  # noqa: F403
from tests.handlers.test_run_again import *  # noqa: F403

del test_a_file_that_another_process_holds_is_tried_again  # noqa: F821  # a file has no pooler

pytestmark = [pytest.mark.debian, pytest.mark.gen_test]  # theirs is one mark


@pytest.fixture(params=["postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture  # type: ignore[no-redef]  # one of those modules has its own, and this goes before it
def database_settings(
    database_url: str, bouncer: Bouncer, request: pytest.FixtureRequest
) -> DatabaseSettings:
    """One slot each where the tests of the deadline have one, else two, for those that lock one another."""
    size = 1 if request.function.__module__.endswith("test_deadline") else 2
    return DatabaseSettings(url=bouncer.url_of(database_url), pooler="pgbouncer", pool_size=size)


@pytest.fixture
def settings(database_settings: DatabaseSettings) -> Settings:
    assert database_settings.url is not None
    url = database_settings.url.get_secret_value()
    return load_settings(
        {"environment": "testing", "database.url": url, "database.pooler": "pgbouncer"}, environ={}
    )
