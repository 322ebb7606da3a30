"""Puts `SessionHandler` in the place of `RequestHandler` in Tornado's own tests, and nothing else.

A test's handler that overrides a hook of the lifecycle without ``super()`` gets that call added, and each
application gets a database. `WebSocketHandler` and the handlers of `tornado.web` itself (static files,
redirects, errors) stay what they are: they derive from Tornado's own handler.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import tornado.testing
import tornado.web
import tornado.websocket
from sqlalchemy import text
from sqlalchemy.orm import Session

from conf import DatabaseSettings
from db import Database
from handlers import SessionHandler

TABLE = "CREATE TABLE requests (id INTEGER PRIMARY KEY, uri TEXT NOT NULL)"

_IDLE_S = 5.0
"""How long a test's requests may take to settle once it has ended; what takes longer is a failure."""


def add_request(session: Session, *, uri: str) -> None:
    """The work of one request in the runs with an INSERT."""
    session.execute(text("INSERT INTO requests (uri) VALUES (:uri)"), {"uri": uri})


class SuiteHandler(SessionHandler):
    """Stands in the place of `RequestHandler`. Lives as long as one attempt at a request."""

    read_only: ClassVar[bool | None] = None
    inserts: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        for name, with_super in _WITH_SUPER.items():
            hook = cls.__dict__.get(name)
            code = getattr(hook, "__code__", None)
            if hook is not None and (code is None or name not in code.co_names):
                setattr(cls, name, with_super(cls, hook))
        super().__init_subclass__(**kwargs)

    def prepare(self) -> Any:
        """As `SessionHandler`'s; an INSERT is sent, and committed, when the handler has finished."""
        prepared = super().prepare()
        if self.inserts:
            self.before_commit(add_request, uri=self.request.uri)
        return prepared


def _prepare(cls: type[SuiteHandler], own: Callable[..., Any]) -> Callable[..., Any]:
    def prepare(self: SuiteHandler) -> Any:
        super(cls, self).prepare()
        return own(self)

    return prepare


def _on_finish(cls: type[SuiteHandler], own: Callable[..., Any]) -> Callable[..., Any]:
    def on_finish(self: SuiteHandler) -> None:
        super(cls, self).on_finish()
        own(self)

    return on_finish


def _log_exception(cls: type[SuiteHandler], own: Callable[..., Any]) -> Callable[..., Any]:
    def log_exception(self: SuiteHandler, *args: Any) -> None:
        super(cls, self).log_exception(*args)
        own(self, *args)

    return log_exception


_WITH_SUPER = {"prepare": _prepare, "on_finish": _on_finish, "log_exception": _log_exception}


class Databases:
    """The databases of the applications of a test. Lives as long as a run of the suite.

    Args:
        url: of the one file that all of them use.
    """

    def __init__(self, url: str) -> None:
        self._settings = DatabaseSettings(url=url)
        self._open: list[Database] = []

    def make(self) -> Database:
        """The database of one application."""
        database = Database(self._settings)
        self._open.append(database)
        return database

    async def idle(self) -> None:
        """Wait for what follows from the requests of a test, on its event loop."""
        for database in self._open:
            if not await database.idle(_IDLE_S):
                raise AssertionError(f"units of work were left open: {database.open_units}")

    def close(self) -> None:
        """Close those of a test that has ended."""
        while self._open:
            self._open.pop().dispose()


@contextmanager
def session_handlers(databases: Databases, *, inserts: bool) -> Iterator[Callable[[str], ModuleType]]:
    """Within the block applications have a database. Gives a function that imports a module of tests."""
    SuiteHandler.inserts = inserts
    SuiteHandler.read_only = False if inserts else None
    application_made = tornado.web.Application.__init__
    test_ends = tornado.testing.AsyncTestCase.tearDown

    def make_application(self: tornado.web.Application, *args: Any, **settings: Any) -> None:
        settings.setdefault("database", databases.make())
        application_made(self, *args, **settings)

    def end_test(self: tornado.testing.AsyncTestCase) -> None:
        try:
            self.io_loop.run_sync(databases.idle)
        finally:
            test_ends(self)

    with (
        mock.patch.object(tornado.web.Application, "__init__", make_application),
        mock.patch.object(tornado.testing.AsyncTestCase, "tearDown", end_test),
    ):
        yield _import_tests


def _import_tests(name: str) -> ModuleType:
    with mock.patch.object(tornado.web, "RequestHandler", SuiteHandler):
        module = importlib.import_module(name)
    if (
        getattr(module, "web", None) is tornado.web
    ):  # classes in its functions derive from `web.RequestHandler`
        web = ModuleType("web")
        web.__dict__.update(tornado.web.__dict__, RequestHandler=SuiteHandler)
        module.__dict__["web"] = web
    return module
