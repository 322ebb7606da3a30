"""The question to the database's server, asked while a page is open and no longer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from db import Database
from db.backend import ServerSession
from db.doctor.sessions import Sessions

ANSWER_S = 1.2
"""How long a page waits for the answer. A statement of the question ends after a second."""

EVERY_S = 1.0
"""A newer answer is not asked for, however many look."""

CLOSE_S = 30.0
"""The connection is closed so long after the last question."""


class Answer(NamedTuple):
    """What the server said, or why it said nothing."""

    sessions: list[ServerSession]
    why_none: str = ""


class AskedSessions:
    """Asks from a thread of its own. Lives as long as the process, on its event loop; `stop` ends it.

    A question that hangs is not asked again until it has ended: there is one thread at most. It is a daemon,
    since no process waits at its end for a database that hangs.
    """

    def __init__(self, database: Database) -> None:
        self._sessions = Sessions(database.settings, database.writer.engine)
        self._question: asyncio.Future[Answer] | None = None
        self._last: Answer | None = None
        self._asked_at = 0.0
        self._closing: asyncio.TimerHandle | None = None

    async def ask(self, pids: Sequence[int], *, within_s: float = ANSWER_S) -> Answer:
        """The sessions with these ids and what they wait for."""
        if self._sessions.why_none:
            return Answer([], self._sessions.why_none)
        if not pids:
            return Answer([])
        if self._last is not None and time.monotonic() - self._asked_at < EVERY_S:
            return self._last
        if self._question is None:
            self._start(list(pids))
        question = self._question
        assert question is not None  # noqa: S101  # `_start` has made it
        await asyncio.wait([question], timeout=within_s)
        if not question.done():
            return Answer([], f"the database did not answer within {within_s:.1f} s")
        return question.result()

    def stop(self) -> None:
        """Close the connection, without waiting for it."""
        if self._closing is not None:
            self._closing.cancel()
            self._in_thread(self._sessions.close)

    def _start(self, pids: list[int]) -> None:
        loop = asyncio.get_running_loop()
        question: asyncio.Future[Answer] = loop.create_future()
        self._question = question

        def arrived(answer: Answer) -> None:
            self._question, self._last, self._asked_at = None, answer, time.monotonic()
            question.set_result(answer)
            if self._closing is not None:
                self._closing.cancel()
            self._closing = loop.call_later(CLOSE_S, self._in_thread, self._sessions.close)

        def work() -> None:
            try:
                answer = Answer(self._sessions.look(pids))
            except Exception as error:  # noqa: BLE001  # the page says that there is no answer, whatever it was
                answer = Answer([], f"the database could not be asked ({type(error).__name__})")
            try:
                loop.call_soon_threadsafe(arrived, answer)
            except RuntimeError:  # the loop is closed
                self._sessions.close()

        self._in_thread(work)

    def _in_thread(self, work: object) -> None:
        threading.Thread(target=work, name="onfinish-live", daemon=True).start()  # type: ignore[arg-type]
