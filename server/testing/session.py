"""A session whose work is undone at the end, whatever was committed in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from db import Database
from server.testing.statements import note_statement

_SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK")


@contextlib.contextmanager
def rolled_back_session(database: Database) -> Iterator[Session]:
    """A session on a test's database for model functions; all that it did is rolled back at the end.

    It is of the session class and with the options of the `Database`. Savepoints, ``commit()`` and
    ``rollback()`` in it work, and reach no further than the transaction that surrounds it: a rollback undoes
    what came after the last commit. Other sessions see nothing of it, and on SQLite wait for it once it has
    written: rows for a request are made in `Database.session_scope`.

    Blocks, through the driver that scripts use; on the event loop of a test too.
    """
    engine = database.writer.scopes
    with engine.connect() as connection:
        transaction = connection.begin()
        event.listen(connection, "before_cursor_execute", _note)
        session = database.sessions.join(connection)
        try:
            yield session
        finally:
            session.close()
            transaction.rollback()


def _note(connection: object, cursor: object, statement: str, *arguments: Any) -> None:
    if not statement.startswith(_SAVEPOINTS):
        note_statement(statement)
