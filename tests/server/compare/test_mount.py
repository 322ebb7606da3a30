"""What a server mounts under the scopes is what it is handed."""

from __future__ import annotations

from tornado.routing import URLSpec
from tornado.web import RequestHandler

from db.scope import Contextvar, Registry
from handlers.json_api.api import ApiHandler
from server.compare.mount import compared_routes


class OneHandler(ApiHandler):
    """A resource of any application."""


def test_each_scope_has_each_route_that_owns_a_session():
    """A handler without a session has nothing to be put under a scope."""
    handed = [URLSpec("/things/([0-9]+)", OneHandler), URLSpec("/plain", RequestHandler)]

    mounted = compared_routes([Contextvar(), Registry()], handed)

    assert [spec.regex.pattern for spec in mounted] == [
        "/compare$",
        "/contextvar/things/([0-9]+)$",
        "/registry/things/([0-9]+)$",
    ]
    assert [issubclass(spec.handler_class, OneHandler) for spec in mounted[1:]] == [True, True]


def test_without_scopes_nothing_is_mounted():
    assert compared_routes([], [URLSpec("/things", OneHandler)]) == []
