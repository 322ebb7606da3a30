"""What code has that follows the examples: a `sessionmaker`, ``prepare``, and ``on_finish``.

Written out as it stands in applications: the session is made in ``prepare``, and ``on_finish``, which Tornado
calls when the answer has been written to the socket, commits and closes it. None has a guard: no session
refuses, no answer waits for COMMIT. `asyncio.to_thread` is the way off the event loop, since it takes the
context along; with ``run_in_executor`` the ambient forms find even less.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from tornado.web import RequestHandler

from conf import DatabaseSettings
from db import make_url
from db.engines.engine import blocking
from db.scope import Explicit, Scope
from server.compare.columns.base import Column, Work

P = ParamSpec("P")
R = TypeVar("R")

session_var: ContextVar[Session] = ContextVar("session")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


# -- the handlers, as applications have them


class PlainHandler(RequestHandler):
    """What the four have in common: the way off the loop, and nothing that limits a request's time."""

    session: Session

    async def run(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Call a function in a thread."""
        return await asyncio.to_thread(function, *args, **kwargs)

    def in_new_transaction(self, function: Callable[..., object], /, **kwargs: Any) -> None:
        """Call a model function in a transaction of its own, at once."""
        column: Plain = self.settings["column"]
        with column.script() as session:
            column.scope.bind(function, session)(**kwargs)


class ExplicitHandler(PlainHandler):
    """The session is an attribute, and an argument of each call."""

    def prepare(self) -> None:
        self.session = self.settings["sessions"]()

    def on_finish(self) -> None:
        try:
            self.session.commit()
        finally:
            self.session.close()


class ContextvarHandler(ExplicitHandler):
    """The session is in a context variable as well."""

    def prepare(self) -> None:
        super().prepare()
        session_var.set(self.session)


class RegistryHandler(PlainHandler):
    """The session is the registry's, under a new key for each request."""

    def prepare(self) -> None:
        request_id.set(uuid.uuid4().hex)
        self.session = self.settings["sessions"]()

    def on_finish(self) -> None:
        try:
            self.settings["sessions"].commit()
        finally:
            self.settings["sessions"].remove()


class ThreadLocalHandler(RegistryHandler):
    """The session is the thread's."""

    def prepare(self) -> None:
        self.session = self.settings["sessions"]()


class BaselayerHandler(RegistryHandler):
    """A reconstruction of what baselayer's handlers do, by its public code; none of it is copied.

    ``prepare`` sets a new key, model code finds ``DBSession``, a `scoped_session` keyed by the variable whose
    default is None; a method ends with ``self.verify_and_commit()``, here in `finish`, so before the answer;
    ``on_finish`` is ``DBSession.remove()``. Left out: the rows that a user may see, and log-in.

    https://github.com/cesium-ml/baselayer/blob/711e7bc/app/handlers/base.py
    https://github.com/cesium-ml/baselayer/blob/711e7bc/app/models.py
    """

    def finish(self, chunk: Any = None) -> Any:
        if self.get_status() < 400:
            self.settings["sessions"].commit()
        return super().finish(chunk)

    def on_finish(self) -> None:
        self.settings["sessions"].remove()


# -- how model code finds it


class FromVariable(Scope):
    """A model function asks the variable."""

    name = "contextvar"

    def enter(self, session: Session) -> object:
        return session_var.set(session)

    def leave(self, entered: object) -> None:
        """Nothing: most code does not reset it."""

    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(session_var.get(), *args, **kwargs)

        return call


class FromRegistry(Scope):
    """A model function works through the proxy.

    Args:
        engine: of its sessions.
        scopefunc: the key; None for the thread.
    """

    name = "registry"

    def __init__(self, engine: Engine, scopefunc: Callable[[], Any] | None) -> None:
        self._made: weakref.WeakSet[Session] = weakref.WeakSet()
        made = self._made

        class Made(Session):
            """A session of the registry's, which is noted."""

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                made.add(self)

        self.sessions = scoped_session(sessionmaker(engine, class_=Made), scopefunc)

    def enter(self, session: Session) -> None:
        """Nothing: it is found by its key."""

    def leave(self, entered: object) -> None:
        """Nothing."""

    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        return partial(function, cast("Session", self.sessions))

    @property
    def made(self) -> Collection[Session]:
        return self._made


# -- the columns


class Plain(Column):
    """A plain form. Its database is reached through a driver that blocks, as a `sessionmaker` needs it."""

    guarded = False
    sessions: Any

    def __init__(self, settings: DatabaseSettings) -> None:
        self.engine = plain_engine(settings)
        self.sessions = sessionmaker(self.engine)
        self.scope = Explicit()

    def open(self) -> Session:
        """The session of a new piece of work, entered."""
        session: Session = self.sessions()
        self.scope.enter(session)
        return session

    def close_session(self, session: Session) -> None:
        """End it."""
        session.close()

    def begin(self, label: str) -> Work:
        session = self.open()

        def end() -> None:
            try:
                session.commit()
            finally:
                self.close_session(session)

        return Work(session, asyncio.to_thread, end)

    @contextlib.asynccontextmanager
    async def job(self, label: str, *, elsewhere: bool = False, entered: bool = True) -> AsyncIterator[Work]:
        if not entered:  # there is nothing that would have to be opened
            with Session() as unused:
                yield Work(unused, asyncio.to_thread, lambda: None)
            return
        with self.script() as session:
            yield Work(session, asyncio.to_thread, lambda: None)

    @contextlib.contextmanager
    def script(self) -> Iterator[Session]:
        session = self.open()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            self.close_session(session)

    def app_settings(self, *, elsewhere: bool = False) -> dict[str, Any]:
        return {"sessions": self.sessions, "column": self}

    def engines(self) -> list[Engine]:
        return [self.engine]

    async def idle(self, timeout_s: float) -> None:
        """Nothing is started that its caller does not wait for."""

    async def close(self, grace_s: float) -> None:
        self.scope.close()
        self.engine.dispose()


class ExplicitPlain(Plain):
    """The session is an argument."""

    name = "explicit-plain"
    handler = ExplicitHandler


class ContextvarPlain(Plain):
    """The session is in a context variable."""

    name = "contextvar-plain"
    handler = ContextvarHandler

    def __init__(self, settings: DatabaseSettings) -> None:
        super().__init__(settings)
        self.scope = FromVariable()

    @contextlib.contextmanager
    def script(self) -> Iterator[Session]:
        before = session_var.get(None)
        try:
            with super().script() as session:
                yield session
        finally:
            if before is not None:
                session_var.set(before)


class RegistryPlain(Plain):
    """The session is in a registry, keyed by a context variable."""

    name = "registry-plain"
    handler: type[RequestHandler] = RegistryHandler

    def __init__(self, settings: DatabaseSettings) -> None:
        super().__init__(settings)
        scope = FromRegistry(self.engine, self.key)
        self.scope, self.sessions = scope, scope.sessions

    key: Callable[[], Any] | None = staticmethod(request_id.get)

    def open(self) -> Session:
        request_id.set(uuid.uuid4().hex)
        return super().open()

    def close_session(self, session: Session) -> None:
        self.sessions.remove()


class ThreadLocalPlain(RegistryPlain):
    """The session is the thread's."""

    name = "threadlocal-plain"
    handler = ThreadLocalHandler
    key = None


class Baselayer(RegistryPlain):
    """Baselayer's way, reconstructed."""

    name = "baselayer"
    handler = BaselayerHandler


def plain_engine(settings: DatabaseSettings) -> Engine:
    """An engine as ``create_engine`` makes it, with the limits that the other columns have.

    Foreign keys are enforced on SQLite, without which no COMMIT can fail there.
    """
    url, options = engine_options(settings)
    engine = create_engine(url, **options)
    enforce_foreign_keys(engine)
    return engine


def engine_options(settings: DatabaseSettings) -> tuple[str, dict[str, Any]]:
    """The URL and the options of `plain_engine`."""
    settings = blocking(settings)
    url = make_url(settings)
    arguments: dict[str, Any] = dict(settings.connect_args)
    if url.get_backend_name() == "sqlite":
        arguments["timeout"] = settings.busy_timeout_s
    else:
        times = {"lock_timeout": settings.lock_timeout_s, "statement_timeout": settings.statement_timeout_s}
        limits = [f"-c{name}={int(time_s * 1000)}" for name, time_s in times.items() if time_s is not None]
        arguments["options"] = " ".join([arguments.get("options", ""), *limits]).strip()
    return url.render_as_string(hide_password=False), {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.pool_timeout_s,
        "connect_args": arguments,
    }


def enforce_foreign_keys(engine: Engine) -> None:
    """On SQLite, on each new connection."""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def enforce(connection: Any, record: object) -> None:
            connection.execute("PRAGMA foreign_keys = ON")


PLAIN: dict[str, type[Plain]] = {
    column.name: column
    for column in (ExplicitPlain, ContextvarPlain, RegistryPlain, ThreadLocalPlain, Baselayer)
}
"""The plain forms by name."""
