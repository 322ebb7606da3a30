"""The one migration of a Galera cluster at a time: a row that its holder keeps alive.

``GET_LOCK`` is known to its node alone. A row is the cluster's: of two that change it at once, one is refused
by certification. The holder's changes count up; a holder whose number stands still is dead. While a DDL runs,
which holds up each COMMIT of the cluster, the number stands still at a holder that lives: its next change is
in the cluster's order already, and refuses the COMMIT of one that would take over.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from db.errors import SchemaError

log = logging.getLogger("onfinish.schema")

TABLE = "migration_lease"

BEAT_S = 1.0
"""Between two signs of life."""

DEAD_AFTER_S = 20.0
"""How long the holder gives none before another migration takes over."""

_LOOK_S = 0.2

_NO_TABLE = 1146
_CONFLICT = 1213
_CREATE = """
    CREATE TABLE IF NOT EXISTS migration_lease
    (id INT PRIMARY KEY, holder CHAR(32) NOT NULL, beats BIGINT NOT NULL)
"""
_FILL = "INSERT IGNORE INTO migration_lease VALUES (1, '', 0)"
_READ = "SELECT holder, beats FROM migration_lease WHERE id = 1"
_TAKE = (
    "UPDATE migration_lease SET holder = %s, beats = beats + 1 WHERE id = 1 AND holder = %s AND beats = %s"
)
_BEAT = "UPDATE migration_lease SET beats = beats + 1 WHERE id = 1 AND holder = %s"
_GIVE_BACK = "UPDATE migration_lease SET holder = '' WHERE id = 1 AND holder = %s"

BUSY = "another migration is under way and did not end in time; nothing was changed"


class _Lease:
    """The row, over a connection of its own. Lives as long as the migration."""

    def __init__(self, connection: Any, errors: type[Exception]) -> None:
        self._connection = connection
        self._errors = errors
        self._holder = uuid.uuid4().hex
        self._beat_at = 0.0
        self._lock = threading.Lock()

    def take(self, within_s: float) -> None:
        """Wait until no other migration has it.

        Raises:
            SchemaError: another one has had it for all that time.
        """
        seen: tuple[str, int] | None = None
        since = began = time.monotonic()
        while time.monotonic() - began < within_s:
            found = self._read()
            if found != seen:
                if seen is None and found[0]:
                    log.info("another migration is under way in the cluster: waiting for its end")
                seen, since = found, time.monotonic()
            is_dead = time.monotonic() - since > DEAD_AFTER_S
            if (is_dead or not found[0]) and self._changes(_TAKE, self._holder, *found):
                if found[0]:
                    log.warning(
                        "a migration gave no sign of life for %g s: this one takes over", DEAD_AFTER_S
                    )
                self._beat_at = time.monotonic()
                return
            time.sleep(_LOOK_S)
        raise SchemaError(BUSY)

    def beat(self) -> None:
        """Give a sign of life, unless there was one a moment ago.

        Raises:
            SchemaError: another migration has taken over.
        """
        with self._lock:
            if time.monotonic() - self._beat_at < BEAT_S / 2:
                return
            if not self._changes(_BEAT, self._holder):
                raise SchemaError(
                    "another migration has taken over, since this one gave no sign of life for "
                    f"{DEAD_AFTER_S:g} s; what it had done is kept: run it again"
                )
            self._beat_at = time.monotonic()

    def beat_until(self, ended: threading.Event) -> None:
        """Give signs of life, from a thread; what ends that is met by the next `beat`."""
        with contextlib.suppress(SchemaError, self._errors):
            while not ended.wait(BEAT_S):
                self.beat()

    def give_back(self) -> None:
        """Let the next one in. Where that fails, it waits until this one counts as dead."""
        with contextlib.suppress(self._errors):
            self._changes(_GIVE_BACK, self._holder)

    def _read(self) -> tuple[str, int]:
        """Who has it, and that one's number. Makes table and row where they are missing."""
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(_READ)
                found: tuple[str, int] | None = cursor.fetchone()
                if found is not None:
                    return found
            except self._errors as error:
                if error.args[0] != _NO_TABLE:
                    raise
            cursor.execute(_CREATE)
        self._changes(_FILL)  # at another node at once: one of the two is refused
        return self._read()

    def _changes(self, statement: str, *parameters: object) -> bool:
        """Whether the row was as the statement wants it; a conflict says that it was changed meanwhile."""
        with self._connection.cursor() as cursor:
            for _ in range(5):
                try:
                    return bool(cursor.execute(statement, parameters))
                except self._errors as error:
                    if error.args[0] != _CONFLICT:
                        raise
        return False


@contextmanager
def leased(connection: Connection, within_s: float) -> Iterator[None]:
    """Migrate alone in the cluster. Each statement of ``connection`` makes sure that it is still so.

    Raises:
        SchemaError: another migration did not end in time, or has taken over.
    """
    pool = connection.engine.pool.recreate()  # beside the one that the caller has its connection from
    try:
        own = pool.connect()
        own.dbapi_connection.autocommit(True)  # type: ignore[union-attr]
        lease = _Lease(own.dbapi_connection, connection.dialect.loaded_dbapi.Error)
        lease.take(within_s)
        ended = threading.Event()
        thread = threading.Thread(target=lease.beat_until, args=(ended,), name="onfinish-lease", daemon=True)

        def check(*statement: object) -> None:
            lease.beat()

        event.listen(connection, "before_cursor_execute", check)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            event.remove(connection, "before_cursor_execute", check)
            thread.join()
            lease.give_back()
            own.invalidate()
    finally:
        pool.dispose()
