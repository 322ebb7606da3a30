"""The columns of the comparison: how code finds its session, and what owns and commits it.

::

    Column
    ├── Guarded              a unit of work of this service's, under one of its scopes
    │   ├── explicit, contextvar, registry, threadlocal
    └── Plain                a `sessionmaker`, ``prepare`` and ``on_finish``
        ├── explicit-plain, contextvar-plain, registry-plain, threadlocal-plain
        ├── tornado-sqlalchemy    the package itself, where it is installed
        └── baselayer             a reconstruction

The four plain forms are what code has that follows the examples; beside each stands the same scope with the
guards, so that a difference between the two is what the guards do.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

from conf import DatabaseSettings
from db.scope import SCOPES
from server.compare.columns.base import Column, Work
from server.compare.columns.guarded import Guarded
from server.compare.columns.plain import PLAIN

PACKAGE = "tornado_sqlalchemy"


def _packaged(settings: DatabaseSettings) -> Column:
    from server.compare.columns.packaged import Packaged

    return Packaged(settings)


COLUMNS: dict[str, Callable[[DatabaseSettings], Column]] = {
    **{name: functools.partial(Guarded, name) for name in SCOPES},
    **PLAIN,
    "tornado-sqlalchemy": _packaged,
}
"""Each column by its name, made on a scratch database."""

TITLES = {
    "explicit": "explicit",
    "contextvar": "contextvar",
    "registry": "registry",
    "threadlocal": "thread-local",
    "explicit-plain": "explicit, plain",
    "contextvar-plain": "contextvar, plain",
    "registry-plain": "registry, plain",
    "threadlocal-plain": "thread-local, plain",
    "baselayer": "baselayer's way",
    "tornado-sqlalchemy": "tornado-sqlalchemy",
}
"""How each is headed."""

ABOUT = {
    "explicit": "the session is an argument; the guards of this service own it",
    "contextvar": "the session is in a ContextVar without default, by ContextvarHandler; guarded",
    "registry": "the session is in a scoped_session keyed by a ContextVar; guarded",
    "threadlocal": "the session is in a scoped_session as it comes, one a thread; guarded",
    "explicit-plain": "an attribute of the handler, passed; a sessionmaker, commit in on_finish",
    "contextvar-plain": "a ContextVar that prepare sets; a sessionmaker, commit in on_finish",
    "registry-plain": "a scoped_session keyed by a ContextVar; commit and remove in on_finish",
    "threadlocal-plain": "a scoped_session as it comes; commit and remove in on_finish",
    "baselayer": "a reconstruction: a keyed scoped_session, commit before the answer, remove in on_finish",
    "tornado-sqlalchemy": "the package, release 0.8: its SessionMixin.session and as_future",
}
"""What each is, in a line."""


def missing() -> list[str]:
    """The columns that cannot be run here, for a package that is not installed."""
    return [] if importlib.util.find_spec(PACKAGE) else ["tornado-sqlalchemy"]


__all__ = ["ABOUT", "COLUMNS", "TITLES", "Column", "Work", "missing"]
