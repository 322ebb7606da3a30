"""Private names of SQLAlchemy that the package relies on, each with its reason; tested to be there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import CheckConstraint, Connection, Engine
from sqlalchemy.orm import RelationshipProperty, session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util.concurrency import await_, greenlet_spawn, in_greenlet


def set_connection_class(engine: Engine, connection: type[Connection]) -> None:
    """Have an engine make its connections of a class of one's own. There is no public way to name it."""
    engine._connection_cls = connection


def terminate_on_loop(engine: Engine) -> None:
    """Have connections of an asyncio driver terminated on the event loop, also where a thread asks for it.

    SQLAlchemy makes a task for that where it is called, which the loop's own thread alone may do.
    """
    terminate = engine.dialect.do_terminate

    def do_terminate(connection: Any) -> None:
        if in_greenlet() and asyncio._get_running_loop() is None:
            await_(greenlet_spawn(terminate, connection))
        else:
            terminate(connection)

    engine.dialect.do_terminate = do_terminate  # type: ignore[method-assign, assignment]


def sessions_alive() -> int:
    """How many sessions the process has not dropped; the registry of `close_all_sessions` is private."""
    return len(session._sessions)


def is_of_a_type(check: CheckConstraint) -> bool:
    """Whether a column's type has made a CHECK, and makes it again: a Boolean or an Enum."""
    return bool(check._type_bound)


class Load(NamedTuple):
    """An attribute that a SELECT of the mapper's own loads, for rows that are there already.

    ``is_lazy``: because the program has read it; else it belongs to the loading of the rows. ``loader``: the
    option of a query that loads it with its rows; empty where there is none.
    """

    entity: str
    attribute: str
    is_lazy: bool
    loader: str


def load_of(context: Any) -> Load | None:
    """The attribute that a statement loads by itself; None for any other statement, or where it is not known.

    Neither the state that a lazy load is for, nor the path of a loader, has a public way to it.

    Args:
        context: the statement's `ExecutionContext`.
    """
    try:
        state: Any = getattr(context.compiled, "compile_state", None)
        path = getattr(state, "current_path", None)
        if path is None:  # no SELECT of the mapper's
            return None
        options = context.execution_options["_sa_orm_load_options"]
        for each in reversed(path.path):
            if isinstance(each, RelationshipProperty):
                loader = "selectinload" if each.uselist else "joinedload"
                is_lazy = options._lazy_loaded_from is not None
                return Load(each.parent.class_.__name__, each.key, is_lazy, loader)
        keys = state.compile_options._only_load_props
        if options._refresh_state is None or options._is_user_refresh or not keys:
            return None
        mapper, key = options._refresh_state.mapper, min(keys)
        is_deferred = getattr(mapper.attrs[key], "deferred", False)
        return Load(mapper.class_.__name__, key, True, "undefer" if is_deferred else "")
    except (
        AttributeError,
        LookupError,
        TypeError,
    ):  # another SQLAlchemy: there are the statements all the same
        return None


class QueuePoolInside(QueuePool):
    """SQLAlchemy's queue of connections, with what has no public way to it. Lives as long as its engine."""

    @property
    def connections_max(self) -> int:
        """How many connections it may have; `size` leaves out the overflow."""
        return self.size() + self._max_overflow

    @property
    def connections(self) -> int:
        """How many it has, idle or in use."""
        return self.checkedin() + self.checkedout()

    def take_out(self, is_due: Callable[[ConnectionPoolEntry], bool], *, keep: int) -> int:
        """Close idle connections that are due, the longest idle first, down to ``keep`` idle ones.

        SQLAlchemy closes all idle connections (`dispose`) or none.

        Returns:
            How many were closed.
        """
        waiting = self._pool
        with waiting.mutex:  # type: ignore[attr-defined]  # the interface of its queues has neither
            queue = waiting.queue  # type: ignore[attr-defined]
            surplus = max(0, len(queue) - keep)
            closing = [record for record in queue if is_due(record)][:surplus]
            for record in closing:
                queue.remove(record)
        for record in closing:
            record.close()
            self._dec_overflow()
        return len(closing)


class AsyncioPoolInside(QueuePoolInside):
    """The same, for an asyncio driver: `create_engine` refuses a pool for one without this flag."""

    _is_asyncio = True
