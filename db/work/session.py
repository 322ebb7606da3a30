"""The sessions of units of work: which classes and options they are made with, and who ends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction

from db.errors import SessionNotOwned, SessionSettled, UsageError
from db.guard import OPTION, StatementGuard

_OURS = {
    "bind": "the unit of work has one engine",
    "binds": "the unit of work has one engine",
    "twophase": "a unit of work commits at one database",
    "expire_on_commit": "rows are used after COMMIT, and end with the unit of work",
    "close_resets_only": "a session ends with its unit of work",
    "autobegin": "the unit of work is the transaction",
    "execution_options": "it carries the guard of the unit of work",
    "join_transaction_mode": "the unit of work is the transaction",
}
"""The options of a session that its unit of work decides, and why."""


class OwnedSession(Session):
    """A session that only its unit of work ends. Lives as long as that unit.

    Model code may flush it and open savepoints in it. A commit or rollback in the middle of a
    request would keep half of it, or silently drop what came before.
    """

    def __init__(
        self, engine: Engine, guard: StatementGuard, execution_options: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(
            engine,
            # Rows end with the unit of work, so nothing may happen between COMMIT and their use.
            expire_on_commit=False,
            close_resets_only=False,
            execution_options={OPTION: guard, **execution_options},
            **options,
        )
        self._guard = guard

    def commit(self) -> NoReturn:
        """Not here."""
        raise self._not_yours(
            "commit", "its unit of work commits it; `await self.commit()` in a handler settles early"
        )

    def rollback(self) -> NoReturn:
        """Not here."""
        raise self._not_yours(
            "rollback", "raise an error to undo the request, or guard a part with `begin_nested()`"
        )

    def close(self) -> NoReturn:
        """Not here."""
        raise self._not_yours("close", "its unit of work closes it")

    def reset(self) -> NoReturn:
        """Not here."""
        raise self._not_yours("reset", "raise an error to undo the request")

    def invalidate(self) -> NoReturn:
        """Not here."""
        raise self._not_yours("invalidate", "raise an error to undo the request")

    def begin(self, nested: bool = False) -> SessionTransaction:
        """A savepoint; the transaction itself has begun already."""
        if not nested:
            raise self._not_yours(
                "begin", "the unit of work is the transaction; a savepoint is `begin_nested()`"
            )
        return super().begin(nested=True)

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """As `Session.get_bind`; refuses where no SQL may be sent, before a connection is waited for.

        Refuses any other engine: what is done there would not be the unit's to undo.
        """
        self._guard.check()
        bind = super().get_bind(*args, **kwargs)
        if bind.engine is not self.bind.engine:  # type: ignore[union-attr]
            raise SessionNotOwned(
                f"{self._guard.label}: a statement names an engine of its own, and its unit of work has one; "
                "another database has units of work of its own, `database.unit_of_work()`"
            )
        return bind

    def _not_yours(self, method: str, way_out: str) -> SessionNotOwned:
        label = self._guard.label
        return SessionNotOwned(
            f"{label}: `session.{method}()` was called on a session that is not the caller's: {way_out}"
        )


class SettledSession(Session):
    """What an owned session becomes once it is settled: every use raises, and names its unit.

    But for `close`: it is closed, so that is done already, as with a file. SQLAlchemy's own
    `close_all_sessions()` closes every session that still exists, these among them.
    """

    def close(self) -> None:
        """Nothing is left to be closed."""

    def __getattribute__(self, attribute: str) -> Any:
        if attribute == "close" or (attribute.startswith("__") and attribute.endswith("__")):
            return object.__getattribute__(self, attribute)
        label = object.__getattribute__(self, "__dict__").get("label", "a unit of work")
        raise SessionSettled(
            f"{label}: its session was used after it had been settled (`session.{attribute}`); load what you "
            "need before `finish()`, or give later work a unit of its own: `self.in_new_transaction(…)`, "
            "`database.unit_of_work()`"
        )

    def __setattr__(self, attribute: str, value: object) -> None:
        getattr(self, attribute)


class SessionMaker:
    """Makes the sessions of a `Database`. Lives as long as that.

    Args:
        session_class: an application's own, a subclass of `Session`, for methods of its own: SQLModel's for
            one. Its ``commit``, ``rollback`` and ``close`` are not called: its unit of work ends it.
        options: further arguments of that class, such as ``autoflush=False``.

    Raises:
        UsageError: no subclass of `Session`, or an option that the unit of work decides.
    """

    def __init__(
        self, session_class: type[Session] = Session, options: Mapping[str, Any] | None = None
    ) -> None:
        if not issubclass(session_class, Session):
            raise UsageError(f"{session_class.__qualname__} is no subclass of sqlalchemy.orm.Session")
        for name in options or ():
            if name in _OURS:
                raise UsageError(f"the option {name} of sessions is not the application's: {_OURS[name]}")
        self._session_class = session_class
        self._options = dict(options or {})
        self._class: type[OwnedSession] = OwnedSession
        if session_class is not Session:
            self._class = type(f"Owned{session_class.__name__}", (OwnedSession, session_class), {})

    def make(self, engine: Engine, guard: StatementGuard, execution_options: Mapping[str, Any]) -> Session:
        """A session for one unit of work."""
        return self._class(engine, guard, execution_options, **self._options)

    def join(self, connection: Connection) -> Session:
        """A session of the application's own class, in the transaction of a connection, which it cannot end.

        What is committed or rolled back in it is a savepoint.
        """
        return self._session_class(
            connection,
            expire_on_commit=False,
            join_transaction_mode="create_savepoint",
            **self._options,
        )


PLAIN = SessionMaker()
"""Makes plain sessions."""
