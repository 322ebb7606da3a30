"""Where model code finds its session: four answers to one question.

::

    Scope
    ├── Explicit       the argument; what this service does
    ├── Contextvar     the session itself in a ContextVar without default: `current_session`, `entered`
    ├── Registry       scoped_session(scopefunc=…), keyed by a contextvar; for comparison
    └── ThreadLocal    scoped_session as it comes; for comparison

All of them hand out the session that a unit of work owns; they differ in nothing but how it is found.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine

from db.errors import NoSession
from db.scope.base import Scope
from db.scope.contextvar import Contextvar, current_session, entered
from db.scope.explicit import Explicit
from db.scope.registry import Registry
from db.scope.threadlocal import ThreadLocal

SCOPES: dict[str, Callable[[Engine], Scope]] = {
    "explicit": lambda engine: Explicit(),
    "contextvar": lambda engine: Contextvar(),
    "registry": Registry,
    "threadlocal": ThreadLocal,
}
"""Each scope by its name, made for the engine on which a registry makes sessions of its own."""

__all__ = [
    "SCOPES",
    "Contextvar",
    "Explicit",
    "NoSession",
    "Registry",
    "Scope",
    "ThreadLocal",
    "current_session",
    "entered",
]
