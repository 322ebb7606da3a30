"""tornado-sqlalchemy itself, as its documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy.orm import Session
from tornado.web import RequestHandler
from tornado_sqlalchemy import SessionMixin, SQLAlchemy, as_future, set_max_workers

from conf import DatabaseSettings
from db.scope import Explicit
from server.compare.columns.plain import Plain, enforce_foreign_keys, engine_options


class PackagedHandler(SessionMixin, RequestHandler):  # type: ignore[misc]  # the package has no types
    """``self.session``, which is made when it is first asked for; the mixin's ``on_finish`` commits it.

    https://tornado-sqlalchemy.readthedocs.io
    """

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """A function in a thread, by the package's `as_future`."""
        return as_future(partial(function, *args, **kwargs))

    def in_new_transaction(self, function: Callable[..., object], /, **kwargs: Any) -> None:
        """A model function in the package's other form, ``with self.make_session()``."""
        with self.make_session() as session:
            function(session, **kwargs)


class Packaged(Plain):
    """The package, with its own engine and sessions."""

    name = "tornado-sqlalchemy"
    handler = PackagedHandler

    def __init__(self, settings: DatabaseSettings) -> None:
        url, options = engine_options(settings)
        self._workers = settings.pool_size
        self._db = SQLAlchemy(url=url, engine_options=options)
        self.engine = self._db.engine
        enforce_foreign_keys(self.engine)
        self.sessions = self._db.sessionmaker
        self.scope = Explicit()

    def open(self) -> Session:
        session: Session = self.sessions()
        return session

    async def close(self, grace_s: float) -> None:
        set_max_workers(self._workers)  # which ends the package's threads, and starts none
        await super().close(grace_s)

    def app_settings(self, *, elsewhere: bool = False) -> dict[str, Any]:
        return {**super().app_settings(elsewhere=elsewhere), "db": self._db}
