"""What a server mounts under the scopes is what it is handed, on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from conf import DatabaseSettings
from handlers.json_api.api import ApiHandler
from server.compare.mount import Twins, compared_routes
from tests.fixtures.logs import ExpectLog
from tests.fixtures.server import Serve


class OneHandler(ApiHandler):
    """A resource of any application: says on which database it works."""

    def get(self, number: str) -> None:
        self.write({"number": number, "database": str(self.settings["database"].writer.engine.url)})


HANDED = [URLSpec("/things/([0-9]+)", OneHandler), URLSpec("/plain", RequestHandler)]


@pytest.fixture
def twins(database_settings: DatabaseSettings, io_loop: IOLoop) -> Iterator[Twins]:
    twins = Twins(database_settings, HANDED)
    yield twins
    io_loop.run_sync(twins.close)


@pytest.mark.gen_test
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_each_scope_has_each_route_that_owns_a_session(
    twins: Twins, serve: Serve, database_settings: DatabaseSettings, expect_log: ExpectLog
):
    """A handler without a session has nothing to be put under a scope. The file is not the product's."""
    client = serve(Application(compared_routes(twins)))

    answers = [await client.get(f"/{scope}/things/7") for scope in ("contextvar", "registry", "threadlocal")]

    assert [answer.json()["number"] for answer in answers] == ["7"] * 3
    [url] = {answer.json()["database"] for answer in answers}
    assert database_settings.url is not None
    assert url != database_settings.url.get_secret_value()
    with expect_log("tornado.access", "404 GET /contextvar/plain"):
        assert (await client.get("/contextvar/plain")).code == 404


def test_nothing_is_made_before_the_first_request(database_settings: DatabaseSettings, io_loop: IOLoop):
    """And nothing has to be closed then."""
    twins = Twins(database_settings, HANDED)

    io_loop.run_sync(twins.close)

    assert twins.scopes == ()


def test_without_twins_nothing_is_mounted():
    assert compared_routes(None) == []
