"""The sessions of the database's server: which waits for which, and whose they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from conf import DatabaseSettings
from db.backend import ServerSession
from db.backends.choose import backend_for
from db.engines.beside import engine_beside
from db.engines.engine import blocking, make_url


class Sessions:
    """Asks the server for its sessions, over a connection of its own. Lives as long as its `Database`.

    Opens the connection with the first question and keeps it until `close`. For one thread at a time, which
    may wait.

    Args:
        settings: where the database is.
        writer: the engine that decides what to connect with.
    """

    def __init__(self, settings: DatabaseSettings, writer: Engine) -> None:
        self._settings = blocking(settings)
        self._backend = backend_for(make_url(self._settings), settings.pooler)
        self._writer = writer
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def why_none(self) -> str:
        """Why they cannot be asked for; empty where they can."""
        return self._backend.why_no_sessions

    def look(self, pids: Sequence[int]) -> list[ServerSession]:
        """The sessions with these ids, and all that they wait for. Takes a second, and connecting before it.

        Raises:
            SQLAlchemyError: the server could not be asked. The next question connects anew.
        """
        with self._lock:
            try:
                connection = self._connected()
                with connection.begin():
                    return self._backend.list_sessions(connection, pids)
            except BaseException:
                self._disconnect()
                raise

    def close(self) -> None:
        """Close the connection. The next question opens another one."""
        with self._lock:
            self._disconnect()

    def _connected(self) -> Connection:
        if self._engine is None:
            self._engine = engine_beside(self._settings, "migration", self._backend, self._writer)
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is of no use any more, whatever it was that failed
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()
