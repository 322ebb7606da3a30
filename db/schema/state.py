"""Whether the schema is as new as the code, asked where a statement names what the schema has not."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable

from sqlalchemy import Engine, Select, column, select, table
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from conf.program import COMMAND
from db.backends.choose import backend_for
from db.engines.beside import engine_beside
from db.engines.engine import blocking, make_url
from db.errors import NotInSchema

WAY_OUT = f"run `{COMMAND} migrate`"

_ASK_AGAIN_S = 1.0
"""Every request meets a schema that is missing; one of them in a second asks."""


def revisions(settings: DatabaseSettings) -> Select[str]:
    """The query for what a database is at: a row for each branch that no other one's revision depends on."""
    return select(column("version_num")).select_from(table(settings.version_table))


def joined(found: Iterable[str]) -> str | None:
    """Revisions as one text, in one order: what is compared, and what messages show. None where none is."""
    return ", ".join(sorted(found)) or None


def not_migrated(found: str | None, expected: str) -> str:
    """A sentence that names what is there and what is expected, and the way out."""
    if found is None:
        return f"there is no schema; the code expects {expected}: {WAY_OUT}"
    return f"the schema is at {found}, the code expects {expected}: {WAY_OUT}"


class Schema:
    """Whether the database is behind the revisions that the code expects. Lives as long as its Database.

    Args:
        settings: where the database is.
        expected: the newest revisions that the code knows, `joined`.
        writer: the engine that says what to connect with.
        known: every revision that the code knows; None takes any other than the expected for an older one.
    """

    def __init__(
        self, settings: DatabaseSettings, expected: str, writer: Engine, known: Collection[str] | None = None
    ) -> None:
        self.expected = expected
        self._known = known
        self._settings = blocking(settings)
        self._writer = writer
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._found: str | None = None

    def fault(self) -> str | None:
        """What is wrong with the schema, in a sentence; None where it is not behind, or cannot be asked.

        Asks over a connection of its own, and blocks meanwhile.
        """
        with self._lock:
            if self._asked_at is None or time.monotonic() - self._asked_at > _ASK_AGAIN_S:
                self._found = self._ask()
                self._asked_at = time.monotonic()
            return self._found

    def _ask(self) -> str | None:
        backend = backend_for(make_url(self._settings), self._settings.pooler)
        engine = engine_beside(self._settings, "reader", backend, self._writer)
        at: Collection[str] = ()
        try:
            with engine.connect() as connection:
                at = connection.scalars(revisions(self._settings)).all()
        except DBAPIError as error:
            if not isinstance(backend.translate(error), NotInSchema):
                return None
        finally:
            engine.dispose()
        if self._known is not None and not set(at) <= set(self._known):
            return None  # a newer schema, which no migration of this code would change
        found = joined(at)
        return not_migrated(found, self.expected) if found != self.expected else None
