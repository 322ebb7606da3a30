"""Whether the schema is as new as the code, asked where a statement names what the schema has not."""

from __future__ import annotations

import threading
import time

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from conf import DatabaseSettings
from db.backends.choose import backend_for
from db.engines.beside import engine_beside
from db.engines.engine import blocking, make_url
from db.errors import NotInSchema

WAY_OUT = "run `python -m server migrate`"

REVISION = text("SELECT version_num FROM alembic_version")

_ASK_AGAIN_S = 1.0
"""Every request meets a schema that is missing; one of them in a second asks."""


def not_migrated(found: str | None, expected: str) -> str:
    """A sentence that names both revisions, and the way out."""
    if found is None:
        return f"there is no schema; the code expects {expected}: {WAY_OUT}"
    return f"the schema is at {found}, the code expects {expected}: {WAY_OUT}"


class Schema:
    """Whether the database is behind the revision that the code expects. Lives as long as its Database.

    Args:
        settings: where the database is.
        expected: the newest revision that the code knows.
        writer: the engine that says what to connect with.
    """

    def __init__(self, settings: DatabaseSettings, expected: str, writer: Engine) -> None:
        self.expected = expected
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
        dialect = backend_for(make_url(self._settings), self._settings.pooler)
        engine = engine_beside(self._settings, "reader", dialect, self._writer)
        try:
            with engine.connect() as connection:
                at: str | None = connection.scalar(REVISION)
        except DBAPIError as error:
            if not isinstance(dialect.translate(error), NotInSchema):
                return None
            at = None
        finally:
            engine.dispose()
        # Their names are numbers, in order. A newer schema is none that a migration would bring up to date.
        return not_migrated(at, self.expected) if at is None or at < self.expected else None
