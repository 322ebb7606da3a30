"""The session is in a registry, under the key that a context variable holds."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Collection
from contextvars import ContextVar
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from db.scope.base import Scope

P = ParamSpec("P")
R = TypeVar("R")

# With a default, as most code in the wild has it: outside of a request every caller has the key None.
_key: ContextVar[str | None] = ContextVar("onfinish_session_key", default=None)


class Registry(Scope):
    """``scoped_session(scopefunc=…)``: keyed in `enter`, removed in `leave`, as baselayer and many others do.

    Model code works through the proxy: each attribute looks the session up, and makes one where there is
    none. The registry holds what it made for good.

    Args:
        engine: of the sessions that it makes; None until ``sessions.configure(bind=engine)``.
    """

    name = "registry"

    def __init__(self, engine: Engine | None = None) -> None:
        self._made: weakref.WeakSet[Session] = weakref.WeakSet()
        factory = sessionmaker(engine, class_=self._noted())
        self.sessions = scoped_session(factory, self._scopefunc)

    _scopefunc: Callable[[], Any] | None = staticmethod(_key.get)

    def enter(self, session: Session) -> None:
        _key.set(uuid.uuid4().hex)
        self.sessions.registry.set(session)

    def leave(self, entered: object) -> None:
        registry = self.sessions.registry
        if registry.has():
            session = registry()
            registry.clear()
            if session in self._made:  # remove() would close any; a unit of work closes its own
                session.close()

    def bind(self, function: Callable[Concatenate[Session, P], R], session: Session) -> Callable[P, R]:
        return partial(function, cast("Session", self.sessions))

    @property
    def made(self) -> Collection[Session]:
        return self._made

    def _noted(self) -> type[Session]:
        made = self._made

        class Made(Session):
            """A session of a registry's own, which is noted."""

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                made.add(self)

        return Made
