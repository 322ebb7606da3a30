"""COMMITs that were cut while the server was at them."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from sqlalchemy import Engine

from conf import DatabaseSettings
from db.backend import ServerSession
from db.backends.choose import backend_for
from db.capacity.slot import Slot
from db.engines.beside import engine_beside
from db.engines.engine import blocking, make_url
from db.observer import Observer

log = logging.getLogger("onfinish.db")

_LOOK_EVERY_S = 1.0

_UNASKED_S = 10.0
"""How long a slot is kept while the server cannot be asked: nor can the pool connect to it meanwhile."""

_SINCE_S = 1.0
"""How much younger a session's state may seem, since it was read a while after its COMMIT was cut."""


_CLOSE_S = 0.2
"""How long a look under way is waited for: 10 ms where the server answers, else its time-outs."""


@dataclasses.dataclass
class _Left:
    slot: Slot
    pid: int
    cut_at: float
    seen_at: float
    is_unconfirmed: bool = False


class LeftCommits:
    """The slots of COMMITs that were cut, each kept until the server is done with its COMMIT.

    Lives as long as its `Database`, which closes it. A server that waits for a synchronous standby does not
    notice that its client is gone. With its slot free, the next unit of work would connect anew and hang as
    well, until the server had no connection left for any of its clients.

    Asks the server once a second, in a thread that is there while there is a slot to ask for.

    Args:
        settings: where the database is.
        writer: the engine that decides what to connect with.
    """

    def __init__(self, settings: DatabaseSettings, writer: Engine) -> None:
        self._settings = settings
        self.observer = Observer()
        """Called when one is kept, and released."""

        self._writer = writer
        self._left: list[_Left] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._left)

    @property
    def unconfirmed(self) -> int:
        """How many wait for a synchronous standby, as was last seen; all where the server does not tell.

        One that takes its time for another reason, such as a deferred trigger, holds no other COMMIT up.
        """
        return sum(each.is_unconfirmed for each in self._left)

    def keep(self, slot: Slot, pid: int) -> None:
        """Release a slot once the server's session with that id has ended, or works for another client."""
        now = time.monotonic()
        with self._lock:
            if self._closed.is_set():
                slot.release()
                return
            if self._watcher is None:
                watcher = threading.Thread(target=self._watch, name="onfinish-left-commits", daemon=True)
                try:
                    watcher.start()
                except RuntimeError:  # the server has no thread to ask in, and nothing would release it
                    slot.release()
                    return
                self._watcher = watcher
            self._left.append(_Left(slot, pid, now, now))
            self.observer.left(+1)

    def close(self) -> None:
        """Release all, and keep none from now on. Takes 0.2 s at most, where the server is asked just now."""
        self._closed.set()
        watcher = self._watcher
        if watcher is not None:
            watcher.join(_CLOSE_S)
        self._release(list(self._left))

    def _watch(self) -> None:
        settings = blocking(self._settings)
        backend = backend_for(make_url(settings), settings.pooler)
        engine = engine_beside(settings, "migration", backend, self._writer)
        while not self._closed.wait(_LOOK_EVERY_S):
            left = list(self._left)
            now = time.monotonic()
            sessions: dict[int, ServerSession] = {}
            try:
                if not backend.why_no_sessions:
                    with engine.connect() as connection:
                        found = backend.list_sessions(connection, [each.pid for each in left])
                    sessions = {session.pid: session for session in found}
            except Exception as error:  # noqa: BLE001  # whatever it is, it is asked again
                log.info("COMMITs that were cut cannot be asked for: %s", type(error).__name__)
                gone = [each for each in left if now - each.seen_at > _UNASKED_S]
            else:
                gone = [each for each in left if not _is_at_it(each, sessions.get(each.pid), now)]
                for each in left:
                    each.seen_at = now
                    seen = sessions.get(each.pid)
                    each.is_unconfirmed = seen is not None and seen.awaits_standby is not False
            if self._release(gone):
                break
        engine.dispose()

    def _release(self, gone: list[_Left]) -> bool:
        """Release some. Returns whether none is left, and the thread that asks is to end."""
        with self._lock:
            self._left = [each for each in self._left if each not in gone]
            is_over = not self._left
            if is_over:
                self._watcher = None
        for each in gone:
            each.slot.release()
            self.observer.left(-1)
        return is_over


def _is_at_it(left: _Left, session: ServerSession | None, now: float) -> bool:
    """Whether a session is the one that was cut, at the same statement: its id may be another's by now."""
    if session is None or session.state != "active":
        return False
    return session.state_s is None or session.state_s > now - left.cut_at - _SINCE_S
